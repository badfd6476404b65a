"""What the command shows: progress, pictures and the table of figures."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.table import Table

from dds import evaluation, figures, paths, plots, progress, training
from dds.compiling import split
from dds.evaluation import Report
from dds.recipes import Recipe
from dds.results import Result, draw
from dds.sampling import BLOCK
from dds.types import KeyArray, Target


def train(
    console: Console,
    recipe: Recipe,
    state: training.TrainingState,
    history: np.ndarray,
    keep: Callable[[training.TrainingState, np.ndarray], None],
    observe: Callable[[training.TrainingState, np.ndarray], None] | None,
    over: Callable[[], bool],
) -> training.Fit:
    """Trains from a state to the end of a recipe, keeps each block, and stops on Ctrl-C, SIGTERM or if time is over."""
    if not recipe.updates:
        console.print(progress.cost(recipe), soft_wrap=True)
        return training.Fit(state.params, history, state)
    shown = (progress.bar if console.is_terminal else progress.lines)(recipe, console)
    stopped, losses = False, [history]

    def stop(number: int, _: Any) -> None:
        nonlocal stopped
        stopped = True
        console.print("Stopping at the end of this block; once more to give up.")
        signal.signal(number, previous[number])

    def callback(state: training.TrainingState, block: np.ndarray) -> bool:
        losses.append(block)
        keep(state, np.concatenate(losses))
        shown(state, block)
        if observe is not None:
            observe(state, block)
        return stopped or over()

    left = recipe.updates - int(state.updates)
    if left == 0:
        return training.Fit(state.params, history, state)
    previous: dict[int, Any] = {int(n): signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        family, loss, optimiser = recipe[:3]
        fit = training.resume(state, family, loss, optimiser, left, block=BLOCK, callback=callback)
    finally:
        getattr(shown, "close", lambda: None)()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return fit._replace(losses=np.concatenate(losses))


def paint(
    output: Path,
    key: KeyArray,
    result: Result,
    plane: Target | None,
    labels: tuple[str, str],
    pair: tuple[int, int],
    particles: Array | None,
) -> None:
    """Draws the result in all coordinates and in two, and the animation where paths have steps.

    `plane` and `labels` are of the first two; of others the density is that of the samples. `particles` are points that
    were found by other means.
    """
    bound, report = result.recipe.bound, result.report
    path_key, exact_key, weights_key = split(key, 3)
    if result.tried:
        figures.trace(result).savefig(output / "trace.png")
    if np.isfinite(report.log_z):
        figures.corner(result).savefig(output / "corner.png")
        if particles is not None and len(particles):
            figures.populations(result, particles).savefig(output / "populations.png")
        resampled = np.ptp(result.log_weights) == 0  # then others show what its weights are like
        weighted = draw(weights_key, result, len(result.log_weights)) if resampled else result
        figures.weights(weighted.log_weights).savefig(output / "weights.png")
    if len(result.history):
        plots.training_history(result.history, log_z=report.log_z_true, bound=bound).savefig(output / "training.png")
    if result.target.dim < 2:
        return
    if pair != (0, 1):
        names, _ = figures.columns(result.samples)
        plane, labels = None, (names[pair[0]], names[pair[1]])
    shown = np.array(pair)
    points, exact = np.asarray(result.samples)[:, shown], None
    if result.target.sample is not None:
        exact = jax.jit(jax.vmap(result.target.sample))(jax.random.split(exact_key, len(points)))[:, shown]
    x_limits, y_limits = plots.limits(points if exact is None else exact, coverage=0.97)
    if plane is None:
        grid = plots.histogram_grid(points, x_limits, y_limits, log_weights=result.log_weights)
    else:
        grid = plots.density_grid(plane.log_density, x_limits, y_limits, log_z=plane.log_z)
    limits = {"x_limits": x_limits, "y_limits": y_limits, "labels": labels}
    plots.scatter(points[:2000], None if exact is None else exact[:2000], **limits).savefig(output / "samples.png")
    if exact is not None:
        plots.scatter(exact[:2000], names=("exact", "exact"), **limits).savefig(output / "exact.png")
    plots.heat_map(grid, points[:500], labels=labels).savefig(output / "density.png")
    plots.surface(grid, labels=labels).savefig(output / "surface.png")
    if not paths.steps(result.sampler):
        return

    def positions(key: KeyArray):
        return paths.positions(paths.sample_path(key, result.sampler).states, result.sampler)[:, shown]

    states = jax.jit(jax.vmap(positions))(jax.random.split(path_key, 500))
    plots.animate(output / "animation.gif", jnp.swapaxes(states, 0, 1), grid, labels=labels)


def table(console: Console, summary: dict[str, Any], report: Report, output: Path) -> None:
    """Prints the figures as a table, the verdict and where everything lies."""
    kind = f"{summary['steps']} steps" if summary["steps"] else "importance sampling"
    shown = Table(title=f"{summary['target']}, {summary['dim']} dimensions, {kind}")
    shown.add_column("")
    shown.add_column("", justify="right")
    shown.add_row("log Z", f"{report.log_z:.4f} ± {report.log_z_standard_error:.4f}")
    if report.log_z_true is not None:
        shown.add_row("true log Z", f"{report.log_z_true:.4f}")
    shown.add_row("ELBO", f"{report.elbo:.4f}")
    if report.eubo is not None:
        shown.add_row("EUBO", f"{report.eubo:.4f}")
    if report.eubo_of_particles is not None:
        shown.add_row("EUBO of refined paths", f"{report.eubo_of_particles:.4f}")
    shown.add_row("ESS", f"{report.ess:.1%} of {report.paths:,} paths")
    shown.add_row("samples", f"worth {report.samples:,.0f} independent ones" if np.isfinite(report.samples) else "none")
    if report.missed_exact is not None:
        missed = max(report.missed_exact - evaluation.RARE, 0.0)
        shown.add_row("missed, of exact samples", f"{missed:.1%}")
    shown.add_row("Pareto k", f"{report.pareto_k:.2f}")
    shown.add_row("seconds, of training", f"{summary['seconds']:.1f}, {summary['seconds_of_training']:.1f}")
    shown.add_row("updates", f"{summary['updates']} ({summary['skipped_updates']} skipped)")
    console.print(shown)
    console.print(summary["verdict"])
    console.print(f"Written to {output.resolve()}.", soft_wrap=True)
