"""What the command shows: progress, pictures and the table of figures."""

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dds import plots, training
from dds.report import Report


@contextmanager
def watch(
    console: Console, updates: int, bound: str, observe: Callable[[training.State, np.ndarray], None] | None
) -> Iterator[training.Callback]:
    """A callback that shows the running bound, ELBO or EUBO, and the time left, and stops the training on Ctrl-C.

    It lets another see each block, if there is one.
    """
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(bound + " {task.fields[value]:.3f}"),
        TimeRemainingColumn(),
    )
    sign = 1 if bound == "EUBO" else -1
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        console.print("Stopping at the end of this block; Ctrl-C again to give up.")
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("training", total=updates, value=math.nan)

            def callback(state: training.State, block: np.ndarray) -> bool:
                if observe is not None:
                    observe(state, block)
                progress.update(task, completed=int(state.updates), value=sign * float(np.mean(block)))
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
    table.add_row("seconds, of training", f"{summary['seconds']:.1f}, {summary['seconds_of_training']:.1f}")
    table.add_row("updates", f"{summary['updates']} ({summary['skipped_updates']} skipped)")
    console.print(table)
    console.print(summary["verdict"])
    console.print(f"Written to {output.resolve()}.", soft_wrap=True)
