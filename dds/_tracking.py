"""What the command tells Weights & Biases of a run, without a network unless it is asked for one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dds import estimators, training
from dds.types import KeyArray, Params, Scalar

PATHS = 1000
"""The number of paths that the bound and the effective sample size are estimated from during training."""

EVERY = 10
"""The number of blocks of updates between such estimates."""


def observed_norm() -> optax.GradientTransformation:
    """Leaves gradients as they are, and keeps the global norm of the last."""

    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None):
        return updates, optax.tree.norm(updates)

    return optax.GradientTransformation(lambda params: jnp.zeros(()), update)


def start(service: str | None, options: dict[str, Any], output: Path) -> Any:
    """Begins a run in the output folder, offline unless WANDB_MODE says otherwise; `None` if none is wanted."""
    if service is None:
        return None
    try:
        import wandb  # an extra
    except ImportError as error:
        raise ValueError(f"track must be left out where wandb is not installed, got {service}: {error}.") from error
    settings = wandb.Settings(silent=True, console="off")
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    return wandb.init(project="dds", config=options, dir=output, mode=mode, settings=settings)


def observer(
    run: Any, key: KeyArray, log_weight: Callable[[Params, KeyArray], Scalar]
) -> Callable[[training.State, np.ndarray], None]:
    """A callback of `training.fit` that logs the progress, of an optimiser that begins with `observed_norm`."""
    keys = jax.random.split(key, PATHS)
    weigh = jax.jit(lambda params: jax.lax.map(lambda key: log_weight(params, key), keys, batch_size=100))
    blocks = 0

    def observe(state: training.State, losses: np.ndarray) -> None:
        nonlocal blocks
        figures = {
            "loss": float(np.mean(losses)),
            "gradient_norm": float(state.optimiser.inner_state[0]),
            "skipped_updates": state.skipped,
        }
        if blocks % EVERY == 0:
            log_w = weigh(state.params)
            figures |= {
                "elbo": float(jnp.mean(log_w)),
                "ess": float(estimators.effective_sample_size(log_w)),
            }
        blocks += 1
        run.log(figures, step=int(state.updates))

    return observe


def finish(run: Any, summary: dict[str, Any], output: Path) -> None:
    """Logs the final figures, as a summary and as a table, and the pictures in the output folder."""
    import wandb

    run.summary.update(summary)
    table = wandb.Table(columns=["figure", "value"], data=[[name, str(value)] for name, value in summary.items()])
    pictures = {path.stem: wandb.Image(str(path)) for path in sorted(output.glob("*.png"))}
    movies = {path.stem: wandb.Video(str(path), format="gif") for path in sorted(output.glob("*.gif"))}
    run.log({"figures": table, **pictures, **movies})
    run.finish()
