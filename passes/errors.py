"""What can go wrong, as one tree.

SlimDiffError
├── UsageError               the caller asked for something that makes no sense
├── CaptureError             torch.export could not trace the model, or the trace is not the model
├── UnsupportedOperatorError a captured operator that no pass handles
├── CalibrationError         no batches, non-finite statistics, a pipeline that failed on the way
│   └── ResumeError          a checkpoint of another run or model
├── PlanError                plan of another model, misaligned or empty sites
├── BudgetError              a budget that no plan meets
├── CouplingError            DepGraph reached other weights than the site's own
├── ValidationError          the slim program is not the masked dense program
├── VerificationError        a program broken between two passes
├── ExportError              an exporter or runtime failed, or its result differs
├── CheckpointError          a folder or file that is missing, truncated or tampered with
│   └── OutputError          what was named as output can't, or must not, be written there; a UsageError as well
└── RankError                a process of several was lost, or runs something else than the others
    └── SilentRankError      another process has said already what went wrong

Messages say what, where (module path or file) and what to do.
"""

from __future__ import annotations


class SlimDiffError(Exception):
    """Base of every error this project raises on purpose.

    Examples:
        >>> try:
        ...     slimdiff_fx.KeepParams(1.5)
        ... except slimdiff_fx.SlimDiffError as error:
        ...     print(type(error).__name__)
        UsageError
    """


class UsageError(SlimDiffError):
    """The call contradicts itself or is out of range."""


class CaptureError(SlimDiffError):
    """The model could not be captured as a graph."""


class UnsupportedOperatorError(SlimDiffError):
    """A captured operator that no pass handles."""


class CalibrationError(SlimDiffError):
    """Calibration had nothing to run on, or met non-finite activations."""


class ResumeError(CalibrationError):
    """A calibration can't go on from a checkpoint: it is of another run or model."""


class PlanError(SlimDiffError):
    """A plan doesn't fit the program."""


class BudgetError(SlimDiffError):
    """No plan meets the budget."""


class CouplingError(SlimDiffError):
    """A removal would reach weights outside its site."""


class ValidationError(SlimDiffError):
    """The slim program differs from the masked dense program."""


class VerificationError(SlimDiffError):
    """A program is malformed between two passes."""


class ExportError(SlimDiffError):
    """An export failed or differs from the program."""


class CheckpointError(SlimDiffError):
    """A file or folder can't be read or must not be written."""


class OutputError(CheckpointError, UsageError):
    """An output is in the way of something, or can't be written; another one has to be named."""


class RankError(SlimDiffError):
    """A process of a calibration over several was lost, can't be reached, or runs something else than the others."""


class SilentRankError(RankError):
    """This process ends because of what another one has reported."""
