"""Keep other libraries' bars, notes and pages of errors off the terminal.

diffusers and transformers are imported inside the functions: the command line reads this file before any of them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def first_line(error: BaseException) -> str:
    """Give what matters of an error's message, which in exporters and runtimes can be pages."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Hold back everything below an error, whichever logger it comes from."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence loading and saving: what goes wrong is raised, in one line."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_level, transformers_level = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers_logging.set_verbosity(diffusers_level)
        transformers_logging.set_verbosity(transformers_level)
        diffusers_logging.enable_progress_bar()
        transformers_logging.enable_progress_bar()


@contextmanager
def quiet_pipeline(pipe: DiffusionPipeline) -> Iterator[None]:
    """Keep the pipeline's own progress bar off the terminal."""
    before = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        if before is None:
            del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = before
