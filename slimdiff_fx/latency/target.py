"""The denoiser that is timed, dense or by a plan, at one set of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import ModelMixin

from passes.plan.slim_plan import SlimPlan
from passes.program.program import Program
from passes.program.shapes import specialize
from passes.rewrite.rewrite import rewrite
from passes.rewrite.site_program import site_program
from passes.sites.find import locate_all
from passes.sites.site import Site
from passes.sites.site_nodes import SiteNodes
from slimdiff_fx.denoisers.families import describe
from slimdiff_fx.denoisers.slim.models import make_slim
from slimdiff_fx.latency.inputs import inputs_at
from slimdiff_fx.timing.runtimes import Contestant


@dataclass(frozen=True)
class Target:
    """What is timed.

    Attributes:
        program: dense, with dynamic sizes.
        model: the eager model, for runtimes that run it; None to run the graph in its place.
        fixed: the program at the timed sizes.
        places: its sites, with their nodes.
    """

    program: Program
    model: ModelMixin | None
    fixed: Program
    places: Mapping[Site, SiteNodes]

    def whole(self, name: str, plan: SlimPlan | None = None) -> Contestant:
        """Give the denoiser, slim if there is a plan."""
        args, kwargs = self.fixed.args, self.fixed.kwargs
        program = self.fixed if plan is None else specialize(rewrite(self.program, plan), args, kwargs)
        if self.model is None:
            return Contestant(name, program.graph_module, program)
        model = self.model if plan is None else make_slim(self.model, plan, share=True)
        return Contestant(name, describe(model).module, program)

    def site(self, site: Site, units: int, width: int | None) -> Contestant:
        """Give one site by itself, at one of its sizes."""
        program = site_program(self.fixed, site, self.places[site], units, width)
        return Contestant(f"{site.kind}-{units}x{width or site.unit_width}", program.graph_module, program)


def make_target(program: Program, model: ModelMixin | None, sizes: Mapping[str, int | None]) -> Target:
    """Fix a dense program's sizes.

    Raises:
        UsageError: the program doesn't hold for these sizes.
    """
    args, kwargs = inputs_at(program, sizes)
    fixed = specialize(program, args, kwargs)
    return Target(program, model, fixed, locate_all(fixed))


def guided_batch(pipe: Any, guidance: float | None) -> int:
    """Say how large a batch a pipeline runs for one picture: 2 with guidance, 3 if by text and by picture."""
    from slimdiff_fx.pipelines.sampling import call_parameters

    known = call_parameters(pipe).get("guidance_scale")
    if known is None:
        return 1
    scale = known.default if guidance is None else guidance
    if scale is None or scale <= 1:
        return 1
    return 3 if "image_guidance_scale" in call_parameters(pipe) else 2
