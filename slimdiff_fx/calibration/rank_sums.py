"""Add up what several ranks have seen, so that each of them holds what one process would have seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from passes.calibrate.instrument import Instrumented
from passes.errors import CalibrationError
from slimdiff_fx.calibration.ranks import Ranks, lost_on_the_way, wait_for_all


def sum_over_ranks(instrumented: Instrumented, ranks: Ranks) -> None:
    """Replace each rank's sums, second moments and probes by those of all ranks; every rank has to call this.

    Tensors are added up one after the other and in place: second moments can be as large as half of the memory.

    Args:
        instrumented: whose calls were counted by their place in the whole calibration (see `passes.calibrate.probes`).
        ranks: this process's place.

    Raises:
        RankError: a rank was lost.
    """
    wait_for_all(ranks)
    moments = instrumented.ledger.moments
    moments.settle()
    sites, samples, calls = instrumented.ledger.read()
    counts = torch.tensor([samples, calls], dtype=torch.float64)
    light = [*(values for sums in sites.values() for values in sums.values()), counts]
    flat = torch.cat([values.flatten() for values in light])
    try:
        for part in (moments.sums, moments.halves):
            for sums in part.values():
                for values in sums.values():
                    _add_up(values, ranks)
        _add_up(flat, ranks)
        start = 0
        for values in light:
            values.copy_(flat[start : start + values.numel()].view_as(values))
            start += values.numel()
        samples, calls = (int(count) for count in counts)
        kept = _probes_of_all(instrumented.probes.kept(calls))
    except RuntimeError as error:
        raise lost_on_the_way(error) from error
    instrumented.ledger.write(sites, samples, calls)
    instrumented.probes.write(kept, range(calls))


def require_agreement(facts: Mapping[str, Any], ranks: Ranks) -> None:
    """Refuse to add up what isn't of one calibration; every rank has to call this.

    Args:
        facts: JSON values that have to be equal on all ranks.
        ranks: this process's place.

    Raises:
        CalibrationError: names the first that differs.
        RankError: a rank was lost.
    """
    first, *others = [json.loads(each) for each in gather(json.dumps(facts).encode())]
    for rank, other in enumerate(others, start=1):
        for name, value in first.items():
            if other.get(name) != value:
                raise CalibrationError(
                    f"rank {rank} runs with other {name} than rank 0; "
                    "start all with the same command, files and versions"
                )


def gather(data: bytes) -> list[bytes]:
    """Give what each rank passed, in their order; every rank has to call this.

    Raises:
        RankError: a rank was lost.
    """
    own = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
        dist.all_gather(sizes, torch.tensor([len(own)]))
        padded = torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8)
        padded[: len(own)] = own
        received = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(received, padded)
    except RuntimeError as error:
        raise lost_on_the_way(error) from error
    return [values[: int(size)].numpy().tobytes() for values, size in zip(received, sizes, strict=True)]


def from_rank_0(data: bytes) -> bytes:
    """Give what rank 0 passed; every rank has to call this.

    Raises:
        RankError: a rank was lost.
    """
    try:
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0)
        sent = torch.zeros(int(size), dtype=torch.uint8)
        if data:
            sent.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(sent, 0)
    except RuntimeError as error:
        raise lost_on_the_way(error) from error
    return sent.numpy().tobytes()


def _add_up(values: Tensor, ranks: Ranks) -> None:
    # A rank that saw no batch of some half has its sums on the CPU still, while another's are on its GPU.
    there = values.to(ranks.device)
    dist.all_reduce(there)
    if there is not values:
        values.copy_(there)


def _probes_of_all(kept: Mapping[int, tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], ...]:
    named = {f"{call:012}/{place:04}": leaf for call, leaves in kept.items() for place, leaf in enumerate(leaves)}
    calls: dict[str, dict[str, Tensor]] = {}
    for each in gather(save(named)):
        for name, leaf in load(each).items():
            call, _, place = name.partition("/")
            calls.setdefault(call, {})[place] = leaf
    return tuple(tuple(calls[call][place] for place in sorted(calls[call])) for call in sorted(calls))
