"""Ask DepGraph what a removal reaches, and refuse whatever is not the site's own.

Only the site's region is shown to DepGraph: the nodes from what makes its units to what reads them, as a small graph
module on small concrete tensors. On a whole denoiser DepGraph mistakes token splits for channel splits and ties
per-head norms to heads; on the region it gets right what it is asked, and its answer is compared with the site before a
weight is cut.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch_pruning
from torch import Tensor, fx, nn

from passes.errors import CouplingError
from passes.program.program import Program
from passes.program.sizes import SMALL
from passes.prove.region import cut_region
from passes.sites.find import locate
from passes.sites.site import Site, channels_gone
from passes.sites.site_nodes import SiteNodes

# (module's path, side) -> the channels that go; a side of "whole" is of what holds no channels that a site could name.
Reach = dict[tuple[str, str], set[int]]
_SIDES = {"out": "output side", "in": "input side", "channels": "its channels", "whole": "all of it"}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def check_coupling(
    program: Program, site: Site, kept: Tensor, nodes: SiteNodes | None = None, *, width: int | None = None
) -> None:
    """Prove that removing units, or channels of them, takes exactly the site's own rows and columns with it.

    Args:
        program: a raised program; it is only read.
        site: a site of the program.
        kept: bool [units]; True keeps. At least one unit or channel goes.
        nodes: the site's nodes, if they have been located already.
        width: channels that stay of each kept unit; None for all.

    Raises:
        CouplingError: the units feed something besides what reads them, a module is called more than once, or
            DepGraph reaches other modules, dimensions or indices than the site names.
    """
    nodes = nodes if nodes is not None else locate(program, site)
    # Autograd is what DepGraph traces with: without it, it finds one group and says nothing.
    with torch.inference_mode(False), torch.enable_grad():
        found = _reach(program, site, kept, nodes, width)
    expected = expected_reach(site, kept, width)
    if found != expected:
        raise CouplingError(f"site {site.name!r}: {_difference(found, expected)}; leave this site whole")


def expected_reach(site: Site, kept: Tensor, width: int | None = None) -> Reach:
    """Say which rows and columns the site itself names for removal."""
    return {place: set(channels.tolist()) for place, channels in site.gone(kept, width).items()}


def _reach(program: Program, site: Site, kept: Tensor, nodes: SiteNodes, width: int | None) -> Reach:
    """Ask DepGraph, starting from the first slice only: the rest is for it to find."""
    first = site.writers[0]
    gone = channels_gone((first,), kept, width)[first.path, first.side].tolist()
    failure: Exception | None = None
    for limit in (SMALL, None):
        region = cut_region(program, site, nodes, limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                graph = torch_pruning.DependencyGraph().build_dependency(region.module, region.inputs, verbose=False)
                root = region.module.get_submodule(first.path)
                convolution = isinstance(root, _CONVOLUTIONS)
                cut = torch_pruning.prune_conv_out_channels if convolution else torch_pruning.prune_linear_out_channels
                group = graph.get_pruning_group(root, cut, gone)
                return _reach_of_group(graph, group, region.module)
            except Exception as error:  # DepGraph raises bare exceptions of any kind
                failure = error
    raise CouplingError(
        f"site {site.name!r}: DepGraph can't follow its region ({type(failure).__name__}: {failure}); "
        "leave this site whole"
    ) from failure


def _reach_of_group(graph: Any, group: Any, module: fx.GraphModule) -> Reach:
    paths: dict[nn.Module | nn.Parameter, str] = {child: path for path, child in module.named_modules() if path}
    paths.update({parameter: name for name, parameter in module.named_parameters()})
    reach: Reach = {}
    for dependency, indices in group:
        target = dependency.target.module
        if target not in paths or isinstance(target, nn.Dropout | nn.Identity):
            continue  # operators: they hold no weight, and validation covers what they compute
        if isinstance(target, nn.GroupNorm):
            side = "channels"
        elif not isinstance(target, (nn.Linear, *_CONVOLUTIONS)):
            side = "whole"
        elif graph.is_out_channel_pruning_fn(dependency.handler):
            side = "out"
        else:
            side = "in"
        reach.setdefault((paths[target], side), set()).update(int(index) for index in indices)
    return reach


def _difference(found: Reach, expected: Reach) -> str:
    for key in sorted(expected.keys() | found.keys()):
        path, side = key
        mine, theirs = expected.get(key), found.get(key)
        if mine == theirs:
            continue
        if mine is None:
            return f"removing units would also change {path!r} ({_SIDES[side]}), which is not of the site"
        if theirs is None:
            return f"DepGraph doesn't reach {path!r} ({_SIDES[side]}), which the site names"
        return (
            f"{path!r} ({_SIDES[side]}): DepGraph takes channels {_few(theirs - mine)} that the site keeps "
            f"and leaves {_few(mine - theirs)} that it removes"
        )
    return "no difference"


def _few(channels: set[int], limit: int = 6) -> str:
    ordered = sorted(channels)
    return f"{list(ordered[:limit])}{' …' if len(ordered) > limit else ''} ({len(ordered)})"
