"""What the command tells Weights & Biases of a run, without a network unless it is asked for one."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dds import estimators, training
from dds.checks import require
from dds.losses import log_weight
from dds.paths import sample_path
from dds.recipes import Recipe
from dds.types import KeyArray, Target

PATHS = 1000
"""The number of paths that the bound and the effective sample size are estimated from during training."""

EVERY = 10
"""The number of blocks of updates between such estimates."""


def check(service: str | None) -> None:
    """Whether what is asked for is installed."""
    installed = service is None or importlib.util.find_spec("wandb") is not None
    require(installed, "track", service, "left out where wandb is not installed: pip install 'dds-jax[wandb]'")


class Observer:
    """A callback of the training that logs its progress, of an optimiser that begins with `observed_norm`."""

    def __init__(self, run: Any, weigh: Any) -> None:
        self.run, self.weigh, self.blocks = run, weigh, 0

    def __call__(self, state: training.TrainingState, losses: np.ndarray) -> None:
        """Logs a block."""
        figures = {
            "loss": float(np.mean(losses)),
            "gradient_norm": float(state.optimiser.inner_state[0]),
            "skipped_updates": state.skipped,
        }
        if self.blocks % EVERY == 0:
            log_w = self.weigh(state.params)
            figures |= {"elbo": float(jnp.mean(log_w)), "ess": float(estimators.effective_sample_size(log_w))}
        self.blocks += 1
        self.run.log(figures, step=int(state.updates))


def observer(options: dict[str, Any], recipe: Recipe, target: Target, key: KeyArray, output: Path) -> Observer | None:
    """Begins a run in the output folder, offline unless WANDB_MODE says otherwise; `None` if none is wanted."""
    if options["track"] is None:
        return None
    import wandb  # an extra

    settings = wandb.Settings(silent=True, console="off")
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    run = wandb.init(project="dds", config=options | {"why": recipe.why}, dir=output, mode=mode, settings=settings)
    keys = jax.random.split(key, PATHS)

    @jax.jit
    def weigh(params):
        sampler = recipe.family.sampler(params)
        return jax.lax.map(lambda key: log_weight(sample_path(key, sampler), target.log_density), keys, batch_size=100)

    return Observer(run, weigh)


def finish(observer: Observer | None, summary: dict[str, Any], output: Path) -> None:
    """Logs the final figures, as a summary and as a table, and the pictures in the output folder."""
    if observer is None:
        return
    import wandb

    run = observer.run
    run.summary.update(summary)
    table = wandb.Table(columns=["figure", "value"], data=[[name, str(value)] for name, value in summary.items()])
    pictures = {path.stem: wandb.Image(str(path)) for path in sorted(output.glob("*.png"))}
    movies = {path.stem: wandb.Video(str(path), format="gif") for path in sorted(output.glob("*.gif"))}
    run.log({"figures": table, **pictures, **movies})
    run.finish()
