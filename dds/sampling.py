"""From a log density to samples, log Z and a verdict in one call, which climbs only as far as it must."""

import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dds import choices, estimators, evaluation, exploration, remedies, search, targets, training, trust
from dds.checks import require, typed
from dds.compiling import split
from dds.devices import Devices, agreed, using
from dds.exploration import Explored
from dds.recipes import Recipe
from dds.results import GOAL, Goal, Result, evaluate
from dds.search import Found
from dds.types import KeyArray, Target

BLOCK = 25
"""The number of updates between two reports of the training."""

LOOKS = 3
"""How often a target is looked at, at most, if each time something was missed."""


class Looked(NamedTuple):
    """What a look at a target gave.

    Attributes:
        found: What there is to start from.
        explored: Points to check samplers by.
        result: Importance sampling from what was found, evaluated; `None` if it is of no use.
        evaluations: The number of evaluations of the density.
    """

    found: Found
    explored: Explored
    result: Result | None
    evaluations: int


@typed
def sample(
    key: KeyArray,
    log_density: Callable[[Any], Any] | Target,
    like: Any = None,
    *,
    precision: float = 0.01,
    draws: int = 1000,
    seconds: float = math.inf,
    paths: int = 10_000,
    scale: float = 1.0,
    recipe: Recipe | None = None,
    progress: Callable[[Recipe], training.Callback] | None = None,
    devices: Devices | None = None,
) -> Result:
    """Draws weighted samples from an unnormalised density and estimates its normalising constant.

    It looks at the target (`look`), which may be enough, and else tries recipes (`dds.choices.ladder`), the cheapest
    first, each trained and evaluated (`climb`), until the goal is met: a standard error of log Z and an effective
    number of samples, and nothing that speaks against them. If none meets it, the best is returned.

    Args:
        key: The random key.
        log_density: The log density, unnormalised; or a `Target`, of `dds.targets` for instance.
        like: The dimension of a point, or an example PyTree of parameters; nothing if a target is given.
        precision: The goal for the standard error of log Z.
        draws: The goal for the effective number of samples, as far as there are so many.
        seconds: The budget. When it is spent nothing more is tried, training ends with the block it is in, and the best
            so far is returned; one sampler is always tried.
        paths: The number of samples. Where more paths are cheap and needed for the goal, they are drawn, too; then the
            samples are resampled from all of them, with equal weights.
        scale: How far out to look: the standard deviation of a normal distribution that reaches all modes. A target
            brings its own.
        recipe: What to train, and how, instead of the look and the ladder.
        progress: What shows the progress, as `dds.progress.bar` or `dds.progress.lines`.
        devices: The devices over which paths are spread, or how many; by default all of this process. The result is the
            same to rounding (`dds.devices`).

    Returns:
        The result.

    Raises:
        ValueError: If the density is not one (`dds.targets.from_log_density`), there are too few paths, a goal is not
            positive, or there are not so many devices.

    Example:
        >>> import jax.numpy as jnp
        >>> result = sample(
        ...     jax.random.key(0), lambda x: -jnp.sum((x - 3) ** 2) / 2, 2, paths=1000
        ... )
        >>> result.samples.shape, round(float(result.log_z.value), 2)
        ((1000, 2), 1.84)
    """
    require(paths >= estimators.LEAST, "paths", paths, f"at least {estimators.LEAST}")
    require(precision > 0, "precision", precision, "positive")
    require(draws >= 1, "draws", draws, "at least 1")
    require(seconds > 0, "seconds", seconds, "positive")
    target, goal = as_target(log_density, like, scale=scale), Goal(precision, draws, seconds)
    look_key, ladder_key, climb_key = split(key, 3)
    started = time.perf_counter()

    def train(rung: int, key: KeyArray, recipe: Recipe) -> training.Fit:
        shown = None if progress is None else progress(recipe)

        def callback(state: training.TrainingState, losses: np.ndarray) -> bool:
            return bool(shown is not None and shown(state, losses)) or spent(goal, started)

        return training.fit(key, *recipe[:4], block=BLOCK, callback=callback)

    with using(devices):
        looked, rungs = None, iter([recipe] if recipe is not None else [])
        if recipe is None:
            looked = look(look_key, target, goal=goal, paths=paths)
            rungs = choices.ladder(ladder_key, target, looked.found)
        return climb(climb_key, target, enumerate(rungs), train, looked, goal=goal, paths=paths, started=started)


@typed
def look(key: KeyArray, target: Target, *, goal: Goal = GOAL, paths: int = 10_000) -> Looked:
    """Looks at a target twice: for what to start from, and for points to check by; and tries the cheapest sampler.

    The two looks are independent. If the second finds modes that the first does not cover, both are made again, the
    first with these modes; if there are further ones then, the prior is adapted to particles. If it finds particles
    where the first would not draw, a component is added for them, where that helps, and more particles are asked. If
    something lies farther out than any draw, the prior is widened. Where none of this changes what was found, the prior
    is adapted in all coordinates of a neck, or else to particles (`dds.remedies`). It ends where nothing new comes of
    it.

    Args:
        key: The random key.
        target: The target.
        goal: The goal, its budget counted from here on.
        paths: The number of samples.

    Returns:
        What was found, and the first result.

    Example:
        >>> import jax.numpy as jnp
        >>> look(
        ...     jax.random.key(0), targets.gaussian(jnp.ones(2), jnp.eye(2))
        ... ).explored.settled
        True
    """
    started, start, log_density = time.perf_counter(), choices.starting_point(target), target.log_density
    explore_key, search_key, *keys = split(key, 2 + 4 * LOOKS)
    explored = exploration.explore(explore_key, log_density, start)
    found = search.search(search_key, log_density, start, precision=goal.precision)
    seen = known = _Known(found, explored, frozenset())
    result, record, cost = None, (), 0
    for i in range(LOOKS):
        evaluate_key, *mend_keys = keys[4 * i : 4 * i + 4]
        if known.found.ess < estimators.POOR:
            known = _tempered(mend_keys[-1], target, known, known.found.ess)
        found, explored, _ = seen = known
        if found.ess == 0:
            break
        recipe = choices.importance(target, found)
        fit = training.fit(evaluate_key, *recipe[:4])
        seconds = time.perf_counter() - started
        result = evaluate(evaluate_key, target, recipe, fit, goal=goal, paths=paths, explored=explored, seconds=seconds)
        record, cost = record + result.tried, cost + result.evaluations
        result = result._replace(tried=record)
        if met(result, goal) or i == LOOKS - 1 or spent(goal, started):
            break
        known = _mended(mend_keys, target, known, result.report, goal.precision, again=i > 0)
        if known.found.prior is found.prior and known.explored is explored:
            break
    return Looked(seen.found, seen.explored, result, cost + known.found.evaluations + known.explored.evaluations)


class _Known(NamedTuple):
    """What is known of a target, each with the evaluations of all before it, and the remedies that were tried."""

    found: Found
    explored: Explored
    tried: frozenset[str]


def _tempered(key: KeyArray, target: Target, known: _Known, ess: float) -> _Known:
    """With a prior adapted to particles, if it has a larger effective sample size than that, and was not tried."""
    if "temper" in known.tried:
        return known
    found = known.found._replace(ess=ess)
    found = remedies.temper(key, target.log_density, choices.starting_point(target), found)
    return known._replace(found=found, tried=known.tried | {"temper"})


def _mended(
    keys: Sequence[KeyArray], target: Target, known: _Known, report: evaluation.Report, precision: float, *, again: bool
) -> _Known:
    """What is known after a remedy for what speaks against a result; the same where there is none."""
    search_key, explore_key, temper_key = keys
    log_density, start = target.log_density, choices.starting_point(target)
    (found, explored, tried), doubts = known, _doubts(report)
    heavy = "widen" not in tried and bool({"pareto_k", "missed_tails"} & doubts)

    def widened(known: _Known) -> _Known:
        if not heavy:
            return known
        found = remedies.widen(temper_key, log_density, known.found)
        return known._replace(found=found, tried=known.tried | {"widen"})

    if "missed_modes" in doubts:
        if again:  # modes come to light one after another: particles show them together
            known = _tempered(temper_key, target, known, estimators.POOR)
            if known.found.prior is not found.prior:
                return known
        anew = search.search(search_key, log_density, start, known=explored.modes, precision=precision)
        anew = anew._replace(evaluations=anew.evaluations + known.found.evaluations)
        return widened(_Known(anew, _explored(explore_key, target, explored), frozenset()))
    if "missed_mass" in doubts and len(explored.points) <= exploration.EXPLORERS:
        # Is it chance? More particles say, and whether a component for those that were missed is enough.
        found = remedies.extend(search_key, log_density, found, explored.points)
        more = _explored(explore_key, target, explored, count=4 * exploration.EXPLORERS)
        return widened(_Known(found, more, tried))
    if "missed_mass" in doubts and not heavy and (found.neck is not None or "temper" in tried):
        return known
    known = widened(known)
    if known.found.prior is found.prior and found.neck is not None and "straighten" not in tried:
        straight = remedies.straighten(search_key, log_density, known.found)
        known = known._replace(found=straight, tried=known.tried | {"straighten"})
    if known.found.prior is found.prior:
        # The effective sample size of a part of the target is not to be compared with.
        part = bool(doubts & {"missed_tails", "missed_mass", "escaped"})
        known = _tempered(temper_key, target, known, estimators.POOR if part else report.ess)
    return known


def _explored(key: KeyArray, target: Target, before: Explored, **options: int) -> Explored:
    """Explored once more, with the evaluations of before."""
    explored = exploration.explore(key, target.log_density, choices.starting_point(target), **options)
    return explored._replace(evaluations=explored.evaluations + before.evaluations)


@typed
def climb(
    key: KeyArray,
    target: Target,
    rungs: Iterable[tuple[int, Recipe]],
    train: Callable[[int, KeyArray, Recipe], training.Fit],
    looked: Looked | None = None,
    *,
    goal: Goal = GOAL,
    paths: int = 10_000,
    best: Result | None = None,
    started: float | None = None,
    keep: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Tries recipes in turn until one meets the goal, and returns the best.

    Args:
        key: The random key.
        target: The target.
        rungs: The recipes, numbered: the number decides which random numbers a recipe gets.
        train: How a recipe is trained: a function of its number, a random key, and the recipe. It is to stop where
            the budget is spent (`spent`).
        looked: What `look` gave, where it was called: its result is the first to meet the goal.
        goal: The goal.
        paths: The number of samples.
        best: The best result so far, for a climb that goes on.
        started: When the clock started, of `time.perf_counter`; by default now.
        keep: Called with the best result so far, whenever there is one.

    Returns:
        The best result. Its evaluations, and its record `tried`, are those of all that was tried.

    Example:
        >>> import jax.numpy as jnp
        >>> target = targets.gaussian(jnp.ones(2), jnp.eye(2))
        >>> looked = look(jax.random.key(0), target)
        >>> climb(
        ...     jax.random.key(1), target, [], lambda rung, key, recipe: None, looked
        ... ).report is looked.result.report
        True
    """
    started = time.perf_counter() if started is None else started
    explored = None if looked is None else looked.explored
    cost = best.evaluations if best is not None else 0 if looked is None else looked.evaluations
    tried = [] if best is None else [best]
    if looked is not None and looked.result is not None:
        best = looked.result._replace(evaluations=cost)
        tried = [best]
        keep(best)
        if met(best, goal) or spent(goal, started):
            return best
    record = () if best is None else best.tried
    for i, recipe in rungs:
        train_key, evaluate_key = split(jax.random.fold_in(key, i))
        fit = train(i, train_key, recipe)
        seconds = time.perf_counter() - started
        result = evaluate(evaluate_key, target, recipe, fit, goal=goal, paths=paths, explored=explored, seconds=seconds)
        cost, record = cost + result.evaluations, record + result.tried
        tried.append(result)
        best = functools.reduce(better, beside(tried))._replace(evaluations=cost, tried=record)
        keep(best)
        if met(best, goal) or spent(goal, started):
            break
    require(best is not None, "rungs", "none", "one or more, where the look gave no result")
    assert best is not None
    return best


@typed
def met(result: Result, goal: Goal) -> bool:
    """Whether a result meets a goal; the truth and exact samples, which users do not have, are not asked.

    Args:
        result: The result.
        goal: The goal.

    Returns:
        Whether so.

    Example:
        >>> import jax.numpy as jnp
        >>> met(sample(jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2), GOAL)
        True
    """
    report, count = result.report, len(result.log_weights)
    good = report.log_z_standard_error <= goal.precision and report.samples >= min(goal.draws, count)
    return bool(good and report.ess >= estimators.POOR and not _doubts(report))


@typed
def spent(goal: Goal, started: float) -> bool:
    """Whether the budget of a goal is spent.

    Args:
        goal: The goal.
        started: When the clock started, of `time.perf_counter`.

    Returns:
        Whether so.

    Example:
        >>> now = time.perf_counter()
        >>> spent(GOAL, now), spent(Goal(seconds=1e-9), now)
        (False, True)
    """
    return goal.seconds < math.inf and agreed(time.perf_counter() - started >= goal.seconds)


@typed
def beside(results: list[Result]) -> list[Result]:
    """Results for one target, each with what the others say of log Z: what a sampler misses makes its log Z too small.

    Args:
        results: The results.

    Returns:
        The same, where the report and the verdict of each know the largest estimate of the others.

    Example:
        >>> import jax.numpy as jnp
        >>> result = sample(
        ...     jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=100
        ... )
        >>> low = result._replace(report=result.report._replace(log_z=0.0))
        >>> "another sampler found more" in beside([result, low])[1].verdict
        True
    """
    known = []
    for i, result in enumerate(results):
        others = [other.report for j, other in enumerate(results) if j != i and trust.is_estimated(other.report)]
        if others:
            largest = max(others, key=lambda report: report.log_z)
            report = result.report._replace(
                log_z_of_another=largest.log_z, log_z_of_another_standard_error=largest.log_z_standard_error
            )
            result = result._replace(report=report, verdict=trust.verdict(report))
        known.append(result)
    return known


@typed
def better(one: Result, other: Result) -> Result:
    """The better of two results: that without a doubt, with fewer of them, or else with the smaller standard error.

    Of doubted ones, what lies farther out or escapes counts no more than as the part of the error that it is.

    Args:
        one: A result.
        other: Another.

    Returns:
        One of them.

    Example:
        >>> import jax.numpy as jnp
        >>> result = sample(
        ...     jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=100
        ... )
        >>> better(result, result) is result
        True
    """

    def rank(result: Result) -> tuple[bool, int, float]:
        doubts = _doubts(result.report)
        error = np.nan_to_num(result.report.log_z_standard_error, nan=np.inf)
        return bool(doubts), len(doubts - {"missed_tails", "escaped"}), error

    return one if rank(one) < rank(other) else other


def _doubts(report: evaluation.Report) -> set[str]:
    blind = report._replace(log_z_true=None, missed_exact=None)
    return {finding.name for finding in trust.findings(blind) if not finding.holds}


@typed
def as_target(log_density: Callable[[Any], Any] | Target, like: Any = None, *, scale: float = 1.0) -> Target:
    """A target of what `sample` takes.

    Args:
        log_density: The log density, or a target, which is returned as it is.
        like: As in `sample`.
        scale: As in `sample`.

    Returns:
        The target.

    Raises:
        ValueError: As in `dds.targets.from_log_density`, or if `like` is missing, or given beside a target.

    Example:
        >>> import jax.numpy as jnp
        >>> as_target(lambda x: -jnp.sum(x**2), 3).dim
        3
    """
    if isinstance(log_density, Target):
        require(like is None, "like", like, "left out, for the target has its own")
        return log_density
    require(like is not None, "like", like, "the dimension of a point, or an example PyTree of parameters")
    return targets.from_log_density(log_density, like, scale=scale)
