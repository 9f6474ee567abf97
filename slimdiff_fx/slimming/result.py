"""What slimming gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from passes.plan.policies import Policy
from passes.plan.slim_plan import SlimPlan
from slimdiff_fx.saved.folder import save_result
from slimdiff_fx.saved.hub import push_result
from slimdiff_fx.saved.slimmed import Slimmed
from slimdiff_fx.saved.summary import change, short


@dataclass(frozen=True, repr=False)
class SlimResult(Slimmed):
    """What slimming gave.

    Model and pipeline, program and plan own their weights: changing one changes no other, nor the dense model. Only
    `pipe` holds `model` itself; and with `in_place` model and program share one set.

    Examples:
        >>> result = slimdiff_fx.slim(unet, batches=batches, policy=slimdiff_fx.KeepParams(0.95), progress=False)
        >>> result.validation.relative_error < 1e-4  # slim against masked dense
        True

        That of a pipeline is saved whole, by `result.save_pretrained("slim")`.

    Attributes:
        plan: which units stay.
        program: the slim graph.
        model: the slim eager model.
        pipe: the pipeline with the slim model in it, or None when a bare model was slimmed. Its other components are
            copies of the dense pipeline's, or with `in_place` the same.
        summary: what was there and what stays, site by site.
        statistics: what calibration saw.
        validation: how far slim is from masked dense; None if it was switched off.
        seconds: wall time of each stage.
        latency: of dense and slim in turn, where latency was the budget.
        analysis: what the plan was made from, see `slimdiff_fx.slimming.site_analysis`; None where a given plan was
            carried out.
        replan: makes a plan from the same calibration by another policy; None likewise, and with `in_place`.
        reference: what the slim model predicted when it was made; a saved folder is held against it.
    """

    replan: Callable[[Policy], SlimPlan] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        lines = (f"  {label:<14} {text}" for label, text in self._figures())
        return "\n".join([self._title(), *lines])

    def _repr_html_(self) -> str:
        """Show the same as a table, in notebooks."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(label)}</th><td style='text-align:left'>{escape(text)}</td></tr>"
            for label, text in self._figures()
        )
        return f"<table><caption style='text-align:left'>{escape(self._title())}</caption>{rows}</table>"

    def _title(self) -> str:
        place = (
            type(self.model).__name__
            if self.pipe is None
            else f"{type(self.model).__name__} in {type(self.pipe).__name__}"
        )
        return f"SlimResult: {place}, by {self.plan.policy.get('method', 'a plan of its own')}"

    def _figures(self) -> list[tuple[str, str]]:
        """Give four lines, of label and text."""
        found, expected, proof = self.summary, self.plan.predicted.get("relative_mse"), self.validation
        return [
            ("parameters", _change(found.params, found.params_kept)),
            ("multiply-adds", _change(found.macs, found.macs_kept)),
            ("error", "none expected" if expected is None else f"{expected:.1e} expected, relative squared"),
            ("proof", "left out" if proof is None else f"slim equals masked dense to {proof.relative_error:.1e}"),
        ]

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Save a pipeline folder that `DiffusionPipeline.from_pretrained` loads; see `slimdiff_fx.saved.folder`.

        A model that was trained, fused or cast after it was slimmed is saved as it is now. Figures that were measured
        before are left out, and the report says so.

        Raises:
            UsageError: a bare model was slimmed, so there is no pipeline to save.
            OutputError: the folder is in the way: `overwrite` replaces nothing but what slimdiff_fx wrote.
            CheckpointError: it can't be written, or what it would give back is not the pipeline that was to be saved;
                nothing is half-written.
        """
        save_result(self, Path(folder), overwrite=overwrite)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, create_pr: bool = False
    ) -> str:
        """Upload what `save_pretrained` writes, the model card included, to a repository of the hub.

        A folder that was saved already is uploaded as well by `hf upload owner/name FOLDER`.

        Args:
            repo_id: "owner/name"; made if there is none.
            private: whether a new repository is private; the owner's default if None.
            token: the one that `hf auth login` has kept if None.
            create_pr: propose the files in place of committing them.

        Returns:
            The address of the commit.

        Raises:
            UsageError: a bare model was slimmed, so there is no pipeline to upload.
        """
        return push_result(self, repo_id, private=private, token=token, create_pr=create_pr)


def _change(dense: int, slim: int) -> str:
    return f"{short(dense)} → {short(slim)} ({change(slim / dense if dense else 1.0)})"
