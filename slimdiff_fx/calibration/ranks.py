"""The processes that calibrate together: torch.distributed's ranks, as torchrun starts them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from passes.errors import RankError, SilentRankError, SlimDiffError, UsageError
from passes.program.torch_private import import_dynamo
from slimdiff_fx.other_libraries import first_line
from slimdiff_fx.pipelines.auto_choice import chosen_device

# A rank that makes no denoiser call for so long hangs, or is lost on another machine.
PATIENCE = timedelta(minutes=30)
_LOOK_EVERY = 0.2  # seconds
_GO_ON = "the same command with `resume` goes on from what the ranks had written"
# Ranks of one agent of torchrun are processes of one machine, whose ids say which are alive.
_AGENT = "GROUP_RANK"


@dataclass(frozen=True)
class Ranks:
    """This process among those that calibrate together. Made by `joined_ranks`.

    Attributes:
        rank: its number.
        world: how many there are.
        device: where it runs, as torch names it.
        store: what all ranks can write and read; None where there is one.
    """

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    store: Store | None = field(default=None, repr=False, compare=False)

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    def beat(self) -> None:
        """Tell the others that this one is alive.

        Raises:
            RankError: the process that keeps the store is gone.
        """
        if self.store is None:
            return
        try:
            self.store.add(f"beat/{self.rank}", 1)
        except RuntimeError as error:
            raise RankError(f"the ranks can't reach one another any more ({first_line(error)}); {_GO_ON}") from error


ALONE = Ranks()


class Terminated(KeyboardInterrupt):
    """The launcher asked this process to end: another rank failed, or someone stopped them all."""


def started_ranks() -> int:
    """Say how many processes were started together, by the variables that torchrun sets."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 1


def refuse_ranks(command: str) -> None:
    """Refuse what several processes would only do several times.

    Raises:
        UsageError: there are several.
    """
    if started_ranks() > 1:
        raise UsageError(
            f"only `calibrate` and `slim` share work between processes; start `{command}` without torchrun"
        )


@contextmanager
def joined_ranks(device: str = "cpu") -> Iterator[Ranks]:
    """Join the processes that were started together, for the duration of a block that all of them run through.

    While they are joined, SIGTERM (how torchrun ends the others when one is lost) interrupts as Ctrl-C does, so that
    checkpoints stay whole. Of an error that ends them all, one rank tells; the others raise `SilentRankError`.

    Args:
        device: "auto" is "cuda" where there are GPUs, else "cpu". "cpu" talks by gloo. "cuda" talks by NCCL, and a rank
            takes the GPU of its number on its machine. A single process may name any device.

    Yields:
        This process's place.

    Raises:
        UsageError: several ranks can't use the device.
        RankError: they can't reach one another, or one was lost.
    """
    device = chosen_device(device)
    if started_ranks() == 1:
        yield Ranks(device=device)
        return
    ranks = _meet(device)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        own = Ranks(ranks.rank, ranks.world, own_device(device, _local_rank()), ranks.store)
        _connect(own)
        yield own
        dist.destroy_process_group()
    except BaseException as error:
        told = _as_told(ranks, error)
        if told is error:
            raise
        raise told from error
    finally:
        signal.signal(signal.SIGTERM, before)


def own_device(device: str, local_rank: int) -> str:
    """Name the device of one of several ranks.

    Raises:
        UsageError: it is none that they can use.
    """
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return device
    if kind != "cuda":
        raise UsageError(f'several ranks run on cpu or cuda, not on {device!r}; give `device="cpu"` or cuda')
    if index:
        raise UsageError(f'each rank takes a GPU of its own, so {device!r} can\'t be for all; give `device="cuda"`')
    if not torch.cuda.is_available():
        raise UsageError('`device="cuda"`: torch finds no GPU here; give `device="cpu"`')
    if not dist.is_nccl_available():
        raise UsageError('`device="cuda"`: this build of torch has no NCCL, by which ranks on GPUs talk; use another')
    if local_rank >= torch.cuda.device_count():
        raise UsageError(
            f"rank {local_rank} of this machine would take cuda:{local_rank}, and there are "
            f"{torch.cuda.device_count()} GPUs; start no more ranks than that (torchrun --nproc-per-node)"
        )
    torch.cuda.set_device(local_rank)
    return f"cuda:{local_rank}"


def wait_for_all(ranks: Ranks, patience: timedelta = PATIENCE) -> None:
    """Wait until every rank has called this.

    No time limit fits ranks of different speed. So one is given up when it is dead, or when it hasn't beaten (see
    `Ranks.beat`) for longer than `patience`.

    Raises:
        RankError: says which rank was lost.
    """
    assert ranks.store is not None
    ranks.store.set(f"arrived/{ranks.rank}", "yes")
    heard: dict[int, tuple[int, float]] = {}
    while missing := [rank for rank in range(ranks.world) if not ranks.store.check([f"arrived/{rank}"])]:
        if ranks.store.check(["told"]):
            raise SilentRankError("another rank failed, and has said why")
        if lost := lost_ranks(ranks):
            raise RankError(f"{_named(lost)} lost; {_GO_ON}")
        for rank in missing:
            beats, now = ranks.store.add(f"beat/{rank}", 0), time.monotonic()
            if rank not in heard or heard[rank][0] != beats:
                heard[rank] = (beats, now)
            elif now - heard[rank][1] > patience.total_seconds():
                minutes = patience.total_seconds() / 60
                raise RankError(f"rank {rank} has not called the denoiser for {minutes:.0f} minutes; {_GO_ON}")
        time.sleep(_LOOK_EVERY)


def lost_ranks(ranks: Ranks) -> list[int]:
    """Name the ranks of this machine whose processes are gone without having reported an error."""
    own_agent = os.environ.get(_AGENT)
    if ranks.store is None or own_agent is None:
        return []
    lost = []
    for rank in range(ranks.world):
        if not ranks.store.check([f"process/{rank}"]):
            continue
        agent, _, process = ranks.store.get(f"process/{rank}").decode().partition(":")
        if agent == own_agent and not _alive(int(process)) and not ranks.store.check([f"left/{rank}"]):
            lost.append(rank)
    return lost


def lost_on_the_way(error: Exception) -> RankError:
    """Make the error of a collective operation that a lost rank has broken."""
    return RankError(f"a rank was lost while the ranks exchanged what they saw ({first_line(error)}); {_GO_ON}")


def _meet(device: str) -> Ranks:
    try:
        store, rank, world = next(iter(rendezvous("env://", timeout=PATIENCE)))
        store.set_timeout(PATIENCE)
        store.set(f"process/{rank}", f"{os.environ.get(_AGENT, '')}:{os.getpid()}")
    except (RuntimeError, ValueError) as error:
        raise RankError(f"the ranks can't meet ({first_line(error)}); start them with torchrun") from error
    return Ranks(rank, world, device, store)


def _connect(ranks: Ranks) -> None:
    assert ranks.store is not None
    # A group that exists when Dynamo is first imported (as capture does) outlives its destruction (torch 2.13). Its
    # threads then end with the interpreter, and abort the process if one still holds a tensor.
    import_dynamo()

    # What isn't on a GPU (probes, records) goes by gloo in any case.
    backend = "cpu:gloo,cuda:nccl" if ranks.device.startswith("cuda") else "gloo"
    try:
        dist.init_process_group(
            backend,
            store=PrefixStore("group", ranks.store),
            rank=ranks.rank,
            world_size=ranks.world,
            timeout=PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"the ranks can't be connected ({first_line(error)}); see that every one of them started"
        ) from error


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _as_told(ranks: Ranks, error: BaseException) -> BaseException:
    """Give the error that this rank ends with: the first one that fails tells why, the others keep silent."""
    assert ranks.store is not None
    try:
        ranks.store.set(f"left/{ranks.rank}", "yes")
        lost = lost_ranks(ranks)
        if ranks.store.add("told", 1) > 1:
            return SilentRankError("another rank failed, and has said why")
    except RuntimeError:  # the store ended with the process that hosted it
        lost = []
    if isinstance(error, Terminated):
        what = f"{_named(lost)} lost" if lost else "this run was told to stop, or a rank was lost elsewhere"
        return RankError(f"{what}; {_GO_ON}")
    if isinstance(error, SlimDiffError) and not isinstance(error, RankError):
        return type(error)(f"rank {ranks.rank}: {error}")
    return error


def _named(lost: list[int]) -> str:
    numbers = ", ".join(map(str, lost))
    return f"rank {numbers} was" if len(lost) == 1 else f"ranks {numbers} were"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
