"""What shows the progress of a training: a bar in terminals and notebooks, lines in plain logs.

Each function takes a recipe, says what it will cost, and returns a callback for `dds.training.fit`; `dds.sample` takes
the function itself. Needs the package rich.
"""

import math
import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dds.checks import typed
from dds.recipes import Recipe
from dds.training import Callback, TrainingState


@typed
def cost(recipe: Recipe) -> str:
    """What a training will cost, in a sentence.

    Args:
        recipe: The recipe.

    Returns:
        The sentence.

    Example:
        >>> from dds import normal, recipes, targets
        >>> plan = recipes.Plan(
        ...     "network", "an example", recipes.DEFAULTS["network"], normal.standard(2)
        ... )
        >>> cost(recipes.build(plan, targets.funnel(2)))
        'An example. 2,500 updates, 6.4 million evaluations of the density.'
    """
    why = f"{recipe.why[:1].upper()}{recipe.why[1:]}."
    if not recipe.updates:
        return why
    evaluations = recipe.evaluations[1]
    count = f"{evaluations / 1e6:.2g} million" if evaluations >= 1e6 else f"{evaluations:,}"
    return f"{why} {recipe.updates:,} updates, {count} evaluations of the density."


@typed
def bar(recipe: Recipe, console: Console | None = None) -> Callback:
    """A progress bar with the running bound and the time left, in a terminal or a notebook.

    Args:
        recipe: The recipe.
        console: Where to; by default the terminal.

    Returns:
        The callback.

    Example:
        >>> from dds import normal, recipes, targets
        >>> plan = recipes.Plan(
        ...     "network", "an example", recipes.DEFAULTS["network"], normal.standard(2)
        ... )
        >>> callable(bar(recipes.build(plan, targets.funnel(2)), Console(quiet=True)))
        True
    """
    console = Console() if console is None else console
    console.print(cost(recipe))
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(recipe.bound + " {task.fields[value]:.3f}"),
        TimeRemainingColumn(),
    )
    shown = Progress(*columns, console=console)
    task = shown.add_task("training", total=recipe.updates, value=math.nan)

    def callback(state: TrainingState, block: np.ndarray) -> None:
        shown.start()
        done = int(state.updates)
        shown.update(task, completed=done, value=bound(recipe, block))
        if done >= recipe.updates:
            shown.stop()

    callback.close = shown.stop  # pyright: ignore[reportFunctionMemberAccess]
    return callback


@typed
def lines(recipe: Recipe, console: Console | None = None) -> Callback:
    """A line for each tenth of the training, for logs.

    Args:
        recipe: The recipe.
        console: Where to; by default the standard output.

    Returns:
        The callback.

    Example:
        >>> from dds import normal, recipes, targets
        >>> plan = recipes.Plan(
        ...     "network", "an example", recipes.DEFAULTS["network"], normal.standard(2)
        ... )
        >>> callable(lines(recipes.build(plan, targets.funnel(2)), Console(quiet=True)))
        True
    """
    console = Console() if console is None else console
    console.print(cost(recipe), soft_wrap=True)
    started, shown = time.perf_counter(), 0

    def callback(state: TrainingState, block: np.ndarray) -> None:
        nonlocal shown
        done = int(state.updates)
        tenth = 10 * done // recipe.updates
        if tenth > shown:
            shown, seconds = tenth, time.perf_counter() - started
            console.print(
                f"update {done} of {recipe.updates}: {recipe.bound} {bound(recipe, block):.3f}, {seconds:.0f} s"
            )

    return callback


@typed
def bound(recipe: Recipe, losses: np.ndarray) -> float:
    """The mean bound of updates: minus the loss where that estimates the ELBO, the loss itself for the EUBO.

    Args:
        recipe: The recipe.
        losses: The losses.

    Returns:
        The bound.

    Example:
        >>> from dds import normal, recipes, targets
        >>> plan = recipes.Plan(
        ...     "network", "an example", recipes.DEFAULTS["network"], normal.standard(2)
        ... )
        >>> bound(recipes.build(plan, targets.funnel(2)), np.array([1.0, 3.0]))
        -2.0
    """
    return float(np.mean(losses)) * (1 if recipe.bound == "EUBO" else -1)
