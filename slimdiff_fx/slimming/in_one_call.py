"""The main job in one call: calibrate, analyze, rewrite, validate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import nn

from passes.arguments import check_kind
from passes.calibrate.calibrate import Batch
from passes.errors import UsageError
from passes.names import Compensation
from passes.plan.policies import Policy
from passes.solve.recipes import Method
from slimdiff_fx.calibration.ranks import ALONE, Ranks
from slimdiff_fx.calibration.record import CalibrationSettings
from slimdiff_fx.calibration.timestep_weights import DEFAULT_WEIGHTS, bucket_weights
from slimdiff_fx.denoisers.altered import refuse_wrapped
from slimdiff_fx.denoisers.taken_over import take_over
from slimdiff_fx.latency.budget import KeepLatency
from slimdiff_fx.listener import SILENT, Listener
from slimdiff_fx.pipelines.inputs.samples import gather_samples
from slimdiff_fx.pipelines.sampling import Sampling, denoiser_name
from slimdiff_fx.slimming.job import Job
from slimdiff_fx.slimming.planning import Planning
from slimdiff_fx.slimming.progress_bar import BarListener
from slimdiff_fx.slimming.result import SlimResult


@torch.inference_mode(False)  # what is added up here is read, and the weights are trained, outside of that mode
def slim(
    pipe_or_model: DiffusionPipeline | ModelMixin,
    *,
    prompts: Iterable[str] | None = None,
    images: str | Path | None = None,
    calibrate_on: str | None = None,
    samples: int = 500,
    steps: int | None = None,
    guidance: float | None = None,
    observe_steps: int | None = None,
    method: Method | None = None,
    policy: Policy | KeepLatency | None = None,
    criterion: str | Sequence[str] | None = None,
    compensation: Compensation | None = None,
    timestep_weights: str | Sequence[float] = DEFAULT_WEIGHTS,
    moments_folder: str | Path | None = None,
    sequential: int | None = None,
    seed: int = 0,
    batch: int = 16,
    batches: Iterable[Batch] | None = None,
    check: bool = True,
    in_place: bool = False,
    ranks: Ranks = ALONE,
    progress: bool = True,
    listener: Listener | None = None,
) -> SlimResult:
    """Slim a pipeline's denoiser, with no training.

    What is returned owns its weights: model and pipeline, program and plan don't change with one another, nor with
    what was passed, whatever is trained, fused, cast or frozen later.

    Examples:
        >>> result = slimdiff_fx.slim(unet, batches=batches, policy=slimdiff_fx.KeepParams(0.95), progress=False)
        >>> result.model(*inputs).sample.shape
        torch.Size([2, 4, 8, 8])

        With a pipeline, prompts take the place of batches: `slimdiff_fx.slim(pipe, prompts=["a cat", "a dog"])`.

    Args:
        pipe_or_model: a diffusers pipeline; or a bare denoiser, which has to be given `batches`.
        prompts: to calibrate on; by default the captions that lie beside the pipeline.
        images: folder of pictures with caption files, to calibrate on instead of denoising trajectories.
        calibrate_on: "trajectory" takes the captions of `images` alone; see `slimdiff_fx.pipelines.inputs.samples`.
        samples: how many prompts or pictures; they are used again if there are fewer.
        steps: denoising steps of each sample, or noise levels of each picture; the pipeline's default if None.
        guidance: classifier-free guidance scale; the pipeline's default if None.
        observe_steps: observe only this many of the steps, chosen by the seed.
        method: "best", "slimdiff", "obs" or "threshold", see `passes.analyze.methods`; "best" unless a threshold or a
            criterion is given.
        policy: `KeepParams(fraction)`, `KeepMacs(fraction)`, `KeepLatency(fraction, backend)`, `MaxError(error)` or
            `Threshold(tau)`; by default as much goes as `MaxError()` allows.
        criterion: for "threshold", name of the score, one or one for each kind of site; see `passes.analyze.criteria`.
        compensation: for "threshold": "none", "bias" or "lstsq".
        timestep_weights: how much timesteps count in second moments; see `slimdiff_fx.calibration.timestep_weights`.
        moments_folder: keep second moments in files there, for models whose moments outgrow memory.
        sequential: solve for the new weights in so many groups of sites, each calibrated behind slim ones before it.
        seed: of everything random.
        batch: samples a pipeline call.
        batches: for a bare denoiser: arguments (args, kwargs) of its program.
        check: compare slim with masked dense; leave it on.
        in_place: take the dense denoiser's weights over, with no second copy. The dense denoiser then holds none and
            says so when it is called; the slim model and program share theirs, and the pipelines their other parts.
        ranks: processes that share the calibration, see `slimdiff_fx.calibration.ranks.joined_ranks`. Each has to call
            this with the same arguments, and gets the same statistics and plan.
        progress: show a bar, unless the pipeline's `set_progress_bar_config(disable=True)` turned bars off.
        listener: told about stages and progress, in place of the bar.

    Returns:
        The slim program, eager model and pipeline, with the plan and what was measured.

    Raises:
        SlimDiffError: see `passes.errors`; nothing is changed in what was passed, with `in_place` neither.
    """
    check_kind("pipe_or_model", pipe_or_model, (DiffusionPipeline, nn.Module), "a pipeline that from_pretrained loaded")
    if listener is None:
        shown = progress and ranks.rank == 0
        listener = BarListener(getattr(pipe_or_model, "_progress_bar_config", {})) if shown else SILENT
    # refuse what contradicts itself before hours of calibration
    planning = Planning.asked(policy, method, criterion, compensation, sequential)
    weights = bucket_weights(timestep_weights)
    if ranks.several and isinstance(policy, KeepLatency):
        raise UsageError("ranks that time the denoiser at once slow one another down: plan for latency in one process")
    settings = CalibrationSettings(
        moments=planning.needs_moments, timestep_weights=weights, attention_weights=planning.needs_attention_weights
    )
    if isinstance(pipe_or_model, nn.Module):
        if batches is None:
            raise UsageError("a bare denoiser has no prompts; pass the pipeline, or batches of the denoiser's inputs")
        if ranks.several:
            raise UsageError("ranks share a pipeline's samples; pass the pipeline, not a bare denoiser")
        if sequential is not None:
            raise UsageError("sequential calibration runs a pipeline several times; pass one, not a bare denoiser")
        job = Job.capture(pipe_or_model, planning, settings=settings, check=check, share=in_place, listener=listener)
        result = job.finish(job.calibrate_on(batches))
        return _taken_over(result, pipe_or_model) if in_place else result
    pipe = pipe_or_model
    refuse_wrapped(pipe)
    chosen = gather_samples(
        pipe,
        prompts=prompts,
        images=images,
        samples=samples,
        seed=seed,
        listener=listener,
        calibrate_on=calibrate_on,
    )
    settings = replace(
        settings,
        sampling=Sampling().given(steps, guidance),
        observe_steps=observe_steps,
        seed=seed,
        batch=batch,
        moments_folder=None if moments_folder is None else Path(moments_folder),
        ranks=ranks,
    )
    job = Job.capture(pipe, planning, chosen, settings, check=check, share=in_place, listener=listener)
    result = job.finish(job.calibrate(), ranks)
    return _taken_over(result, getattr(pipe, denoiser_name(pipe))) if in_place else result


def _taken_over(result: SlimResult, dense: nn.Module) -> SlimResult:
    """Leave the dense model without weights; other plans can't be made of it any more."""
    take_over(dense)
    return replace(result, replan=None)
