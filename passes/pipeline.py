"""The compiler's stages in their order, to be read first: what each takes and gives, and the file that it is in.

==============  ================================================  ===============================  ==================
stage           takes → gives                                     function                         in
==============  ================================================  ===============================  ==================
capture         a module, example inputs → `Program`              `capture`                        capture/capture
find sites      `Program` → `Site`s, and what is left out and why `find_sites`, `find_unsupported` sites/find
instrument      `Program`, sites → the same with observers in it  `instrument`                     calibrate/instrument
calibrate       observers, batches of inputs → `Statistics`       `calibrate`                      calibrate/calibrate
analyze         statistics, policy, method → `SlimPlan`           `analyze`                        analyze/methods
rewrite         `Program`, plan → a smaller `Program`             `rewrite`                        rewrite/rewrite
validate        dense, plan, slim → a report, or an error         `validate`                       prove/validate
lower           `Program` → `torch.export.ExportedProgram`        `lower`                          capture/lower
==============  ================================================  ===============================  ==================

`rewrite` asks DepGraph first what a removal reaches (prove/coupling) and checks what came out (prove/verify);
`validate` holds the slim program against the dense one with the removed units multiplied by zero (prove/masking).

`STAGES` has the functions themselves, in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from passes.analyze.methods import analyze
from passes.calibrate.calibrate import calibrate
from passes.calibrate.instrument import instrument
from passes.capture.capture import capture
from passes.capture.lower import lower
from passes.prove.validate import validate
from passes.rewrite.rewrite import rewrite
from passes.sites.find import find_sites

STAGES: MappingProxyType[str, Callable[..., Any]] = MappingProxyType(
    {
        "capture": capture,
        "find sites": find_sites,
        "instrument": instrument,
        "calibrate": calibrate,
        "analyze": analyze,
        "rewrite": rewrite,
        "validate": validate,
        "lower": lower,
    }
)
