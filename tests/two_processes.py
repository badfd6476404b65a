"""One of two processes that train a sampler together, and go on from the last block that was saved; for a test.

Usage: python two_processes.py FOLDER PROCESS PORT [DIES], where DIES is the number of updates after which it ends.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

from dds import devices, families, losses, schedules, storage, targets, training

UPDATES = 30


def what():
    """What is trained, by which loss and optimiser."""
    target = targets.funnel(3)
    family = families.learned(target.log_density, schedules.constant(4, total=2.0), target.dim, width=8)
    return family, partial(losses.reverse_kl, log_density=target.log_density, paths=10), optax.adam(0.01)


def main(folder: Path, process: int, port: int, dies: int = 0) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    family, loss, optimiser = what()
    kept = folder / "state.npz"

    def save(state, losses):
        if process == 0:
            storage.save(kept, state)
        if int(state.updates) == dies:
            os.kill(os.getpid(), signal.SIGKILL)

    with devices.using():
        assert devices.agreed(process == 0)  # what the first says, for both
        state = training.start(jax.random.key(0), family, optimiser)
        if kept.exists():
            state = storage.load(kept, state)
        left = UPDATES - int(state.updates)
        fit = training.resume(state, family, loss, optimiser, left, block=10, callback=save)
    np.save(folder / f"{process}.npy", jax.flatten_util.ravel_pytree(fit.params)[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
