"""The command line with one rank that is killed in the middle: `torchrun tests/dying_rank.py RANK BATCHES ARGUMENTS…`.

The rank kills itself, as the system does when memory is out, before the batch that follows so many. Checkpoints are
written after every batch; in the other ranks each batch takes a little longer, so that the kill finds them at work.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from slimdiff_fx import cli
from slimdiff_fx.calibration import run as calibration_run

if __name__ == "__main__":
    rank, batches, *arguments = sys.argv[1:]
    left = int(batches)
    observe_batch = calibration_run.observe_batch

    def observe(*given, **named):
        global left
        if os.environ["RANK"] != rank:
            time.sleep(float(os.environ.get("PAUSE", "1")))
        elif left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        observe_batch(*given, **named)
        left -= 1

    calibration_run.observe_batch = observe
    calibration_run._CHECKPOINT_EVERY = calibration_run._CHECKPOINT_SHARE = 0
    sys.argv = ["slimdiff-fx", *arguments]
    cli.main()
