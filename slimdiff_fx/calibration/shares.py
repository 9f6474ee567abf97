"""Which batches of a calibration are whose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """The batches of one rank: every `world`-th, whole, so that each is run as a single process would run it.

    Attributes:
        samples: of the whole calibration set.
        batch: samples in one batch; the last may have fewer.
        rank: whose share it is.
        world: among how many.
    """

    samples: int
    batch: int
    rank: int = 0
    world: int = 1

    @property
    def batches(self) -> range:
        """Numbers of the batches, in the order they are run."""
        return range(self.rank, -(-self.samples // self.batch), self.world)

    @property
    def total(self) -> int:
        """Samples in all of them."""
        numbers = self.batches
        missing = -self.samples % self.batch  # in the last batch of all
        last = -(-self.samples // self.batch) - 1
        return len(numbers) * self.batch - (missing if last in numbers else 0)

    def rows(self, number: int) -> slice:
        """Give a batch's place in the calibration set."""
        return slice(number * self.batch, (number + 1) * self.batch)

    def left(self, done: int) -> range:
        """Give the batches that are left after so many samples of this share."""
        return self.batches[self._finished(done) :]

    def calls(self, done: int, each: int) -> list[int]:
        """Number the denoiser calls behind so many samples, as one process would count them, `each` a batch."""
        finished = self.batches[: self._finished(done)]
        return [call for number in finished for call in range(number * each, (number + 1) * each)]

    def _finished(self, done: int) -> int:
        # Only the last batch of all is short, so it is the last of a share.
        return -(-done // self.batch)
