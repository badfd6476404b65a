"""The command: `python -m dds funnel` trains a sampler, reports on it and draws it.

It composes the library's functions as any user would; nothing imports it.
"""

import importlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dds import losses, networks, ou, plots, reversal, sampler, schedules, storage, targets, training
from dds.checks import require
from dds.report import Report, report, verdict
from dds.types import KeyArray, Params, Sampler, Scalar, State, Target


class Named(NamedTuple):
    """A target that goes by a name: how to make it in any dimension, its own one, and names of two coordinates."""

    make: Callable[[int], Target]
    dim: int
    labels: tuple[str, str]


def _gaussian(dim: int) -> Target:
    distance = jnp.abs(jnp.subtract.outer(jnp.arange(dim), jnp.arange(dim)))
    return targets.gaussian(jnp.ones(dim), 0.7**distance)


def _mixture(dim: int) -> Target:
    angles = jnp.linspace(0, 2 * jnp.pi, 8, endpoint=False)
    ring = 3 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return targets.gaussian_mixture(jnp.pad(ring, ((0, 0), (0, dim - 2))), jnp.full(8, 0.5))


# The first two coordinates of each have the law of the same target in two dimensions: the pictures rely on it.
NAMED = {
    "funnel": Named(targets.funnel, 10, ("v", "x_1")),
    "gaussian": Named(_gaussian, 10, ("x_1", "x_2")),
    "mixture": Named(_mixture, 2, ("x_1", "x_2")),
}


def run(
    target: Annotated[str, tyro.conf.Positional] = "funnel",
    *,
    dim: int | None = None,
    steps: int = 128,
    updates: int = 2000,
    batch: int = 100,
    samples: int = 10_000,
    seed: int = 0,
    sigma: float = 1.075,
    noise: float = 3.7,
    width: int = 64,
    depth: int = 2,
    learning_rate: float = 5e-3,
    score_clip: float = 100.0,
    stop_score: bool = False,
    output: Path = Path("dds-output"),
    pictures: bool = True,
) -> None:
    """Trains a denoising diffusion sampler on a target, reports log Z with its error and draws the samples.

    Ctrl-C stops the training; what there is by then is evaluated and saved.

    Args:
        target: A name (funnel, gaussian, mixture) or an importable log density, as my_module:log_density.
        dim: The dimension. A name has its own; a log density needs it.
        steps: The number of steps K from the prior to the target.
        updates: The number of updates of the parameters.
        batch: The number of paths in an update.
        samples: The number of samples that are drawn in the end.
        seed: The seed of all randomness.
        sigma: The standard deviation of the prior. It should cover the target.
        noise: The sum of the noise fractions of all steps. The target's signal in the prior is exp(-noise / 2).
        width: The units of the network's hidden layers.
        depth: The number of the network's hidden layers.
        learning_rate: The learning rate of Adam at the start; it decays to a hundredth along a cosine.
        score_clip: The bound on each coordinate of the target's score where the network uses it.
        stop_score: Whether no gradient flows through the score: the paper's biased gradient.
        output: The folder to write to; it is made if need be.
        pictures: Whether to draw pictures and the animation.
    """
    for name, count in (("updates", updates), ("batch", batch), ("samples - 1", samples - 1)):
        require(count >= 1, name, count, "at least 1")
    require(learning_rate > 0, "learning_rate", learning_rate, "positive")
    density, plane, labels = find_target(target, dim, sigma)
    prepare(output)
    console = Console()
    started = time.perf_counter()

    noising = ou.process(schedules.cosine(steps, total=noise), sigma)
    prior = ou.stationary(noising, density.dim)
    network = networks.mlp(
        density.dim,
        jax.grad(density.log_density),
        width=width,
        depth=depth,
        score_clip=score_clip,
        stop_score=stop_score,
    )

    def diffusion(params: Params) -> Sampler:
        control = partial(network.apply, params)
        return Sampler(prior, noising, reversal.denoising_kernel(noising, control, network.tabulate(params, steps)))

    def loss(params: Params, key: KeyArray) -> Scalar:
        def log_weight(key: KeyArray) -> Scalar:
            path = sampler.sample_path(key, diffusion(params), freeze_laws=True)
            return losses.log_weight(path, noising, density.log_density)

        return losses.reverse_kl(jax.vmap(log_weight)(jax.random.split(key, batch)))

    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(learning_rate, updates, 0.01))
    )
    init_key, fit_key, draw_key, exact_key = jax.random.split(jax.random.key(seed), 4)
    with watch(console, updates) as callback:
        fit = training.fit(fit_key, network.init(init_key), loss, optimiser, updates, block=25, callback=callback)

    def forth(key: KeyArray) -> tuple[Scalar, State, Array]:
        path = sampler.sample_path(key, diffusion(fit.params))
        states = path.trajectory.states
        return losses.log_weight(path, noising, density.log_density), states[-1], states[:, :2]

    def back(sample: Callable[[KeyArray], State], key: KeyArray) -> tuple[Scalar, State]:
        sample_key, noise_key = jax.random.split(key)
        x = sample(sample_key)
        path = sampler.retrace(ou.noise_path(noise_key, noising, x), diffusion(fit.params))
        return losses.log_weight(path, noising, density.log_density), x

    log_weights, points, planes = many(forth, draw_key, samples)
    forward, exact = (None, None) if density.sample is None else many(partial(back, density.sample), exact_key, samples)
    figures = report(log_weights, log_z_true=density.log_z, forward_log_weights=forward)
    seconds = time.perf_counter() - started

    summary = {
        "target": target,
        "dim": density.dim,
        **figures._asdict(),
        "seconds": round(seconds, 2),
        "updates": int(fit.state.updates),
        "skipped_updates": fit.state.skipped,
        "seed": seed,
        "steps": steps,
        "batch": batch,
        "sigma": sigma,
        "noise": noise,
        "verdict": verdict(figures),
    }
    finite = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in summary.items()}
    (output / "summary.json").write_text(json.dumps(finite, indent=2) + "\n")
    np.savez(output / "samples.npz", samples=points, log_weights=log_weights)
    storage.save(output / "parameters.npz", fit.params)
    if pictures:
        with console.status("drawing"):
            paint(output, fit.losses, figures, points, log_weights, exact, planes[:500], plane, labels)
    show(console, summary, figures, output)


def find_target(name: str, dim: int | None, scale: float) -> tuple[Target, Target | None, tuple[str, str]]:
    """The target of a name or of an import path; its law in the plane of its first coordinates; their labels."""
    if name in NAMED:
        named = NAMED[name]
        require(dim is None or dim >= 2, "dim", dim, "at least 2")
        return named.make(dim or named.dim), named.make(2), named.labels
    module, colon, attribute = name.partition(":")
    known = f"one of {', '.join(NAMED)}, or an importable log density as my_module:log_density"
    require(bool(colon and module and attribute), "target", repr(name), known)
    require(dim is not None, "dim", dim, "given for a log density of your own")
    try:
        log_density = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"target must be {known}, got {name!r}: {error}.") from error
    target = targets.from_log_density(log_density, int(dim or 0), scale=scale)
    return target, target if dim == 2 else None, ("x_1", "x_2")


def prepare(output: Path) -> None:
    """Makes the output folder and tries to write there, before any time is spent on training."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "summary.json").touch()
    except OSError as error:
        raise ValueError(f"output must be a folder that can be written, got {output}: {error}.") from error


def many(draw: Callable[[KeyArray], Any], key: KeyArray, count: int) -> Any:
    """Many independent draws, compiled, in batches that bound the memory."""
    return jax.jit(lambda key: jax.lax.map(draw, jax.random.split(key, count), batch_size=1000))(key)


@contextmanager
def watch(console: Console, updates: int) -> Iterator[training.Callback]:
    """A callback that shows the running ELBO and the time left, and stops the training on Ctrl-C."""
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("ELBO {task.fields[elbo]:.3f}"),
        TimeRemainingColumn(),
    )
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        console.print("Stopping at the end of this block; Ctrl-C again to give up.")
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("training", total=updates, elbo=math.nan)

            def callback(state: training.State, block: np.ndarray) -> bool:
                progress.update(task, completed=int(state.updates), elbo=-float(np.mean(block)))
                return interrupted

            yield callback
    finally:
        signal.signal(signal.SIGINT, previous)


def paint(output, history, figures, points, log_weights, exact, states, plane, labels) -> None:
    """Draws the pictures and the animation of the first two coordinates."""
    plots.training_history(history, log_z=figures.log_z_true).savefig(output / "training.png")
    if points.shape[1] < 2:
        return
    points, states = np.asarray(points[:, :2]), np.asarray(states).swapaxes(0, 1)
    exact = None if exact is None else np.asarray(exact[:, :2])
    x_limits, y_limits = plots.limits(points if exact is None else exact, coverage=0.97)
    if plane is None:
        grid = plots.histogram_grid(points, x_limits, y_limits, log_weights=log_weights)
    else:
        grid = plots.density_grid(plane.log_density, x_limits, y_limits, log_z=plane.log_z)
    limits = {"x_limits": x_limits, "y_limits": y_limits, "labels": labels}
    plots.scatter(points[:2000], None if exact is None else exact[:2000], **limits).savefig(output / "samples.png")
    if exact is not None:
        plots.scatter(exact[:2000], names=("exact", "exact"), **limits).savefig(output / "exact.png")
    plots.heat_map(grid, points[:500], labels=labels).savefig(output / "density.png")
    plots.surface(grid, labels=labels).savefig(output / "surface.png")
    plots.animate(output / "animation.gif", states, grid, labels=labels)


def show(console: Console, summary: dict[str, Any], figures: Report, output: Path) -> None:
    """Prints the figures as a table, the verdict and where everything lies."""
    table = Table(title=f"{summary['target']}, {summary['dim']} dimensions, {summary['steps']} steps")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("log Z", f"{figures.log_z:.4f} ± {figures.log_z_standard_error:.4f}")
    if figures.log_z_true is not None:
        table.add_row("true log Z", f"{figures.log_z_true:.4f}")
    table.add_row("ELBO", f"{figures.elbo:.4f}")
    if figures.eubo is not None:
        table.add_row("EUBO", f"{figures.eubo:.4f}")
    table.add_row("ESS", f"{figures.ess:.1%}")
    if figures.forward_ess is not None:
        table.add_row("ESS from exact samples", f"{figures.forward_ess:.1%}")
    table.add_row("Pareto k", f"{figures.pareto_k:.2f}")
    table.add_row("seconds", f"{summary['seconds']:.1f}")
    table.add_row("updates", f"{summary['updates']} ({summary['skipped_updates']} skipped)")
    console.print(table)
    console.print(summary["verdict"])
    console.print(f"Written to {output.resolve()}.", soft_wrap=True)


def main() -> None:
    """Runs the command; what the user got wrong is said in one line, without a traceback."""
    try:
        tyro.cli(run, prog="python -m dds")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
