"""Names that options choose from and that no table holds; this file imports no torch, so listing them is quick."""

from __future__ import annotations

from typing import Literal, get_args

# What the kept units make up for.
Compensation = Literal["none", "bias", "lstsq"]
COMPENSATIONS: tuple[Compensation, ...] = get_args(Compensation)

# How scores are made comparable between sites.
Normalization = Literal["max", "minmax"]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
