"""What a sampler is worth: draws, checks and a verdict; and what can be done with the result."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import choices, devices, estimators, evaluation, exploration, losses, recipes, smc, tails, training, trust
from dds.checks import require, typed
from dds.compiling import QUICK, once, split
from dds.paths import noise_path, noise_size, sample_path, steps
from dds.search import CHEAP
from dds.types import Arrays, Bijection, Family, KeyArray, LogDensity, Mixture, Params, Sampler, Target

CHUNK = 1000
"""The number of paths that are drawn or weighed at a time: it bounds the memory."""

REFINED, ROOM = 2000, 2**26
"""The number of paths that are refined where weights alone do not do, and the most numbers that they are made of."""

OWN = 100_000
"""The most own paths of a sampler with steps: about as many as refining costs."""

SEVERAL = 500
"""The effective number of samples from which they are asked what lies farther out; or a share of `estimators.POOR`."""

MEMORY = 2**24
"""The most numbers that more paths may take to store."""


class Goal(NamedTuple):
    """What a result is to reach, and in what time.

    Attributes:
        precision: The standard error of log Z.
        draws: The effective number of samples, as far as there are so many.
        seconds: The budget: when it is spent nothing more is tried, and training ends with the block it is in.
    """

    precision: float = 0.01
    draws: int = 1000
    seconds: float = math.inf


GOAL = Goal()
"""The goal by default."""


class Draws(NamedTuple):
    """Weighted samples.

    Attributes:
        samples: The samples, in the user's structure, each with a leading axis.
        log_weights: Their log weights.
    """

    samples: Any
    log_weights: Float[Array, " paths"]


class Tried(NamedTuple):
    """What one sampler of several gave.

    Attributes:
        kind: The kind of its recipe, as `dds.recipes.Plan` has it; "own" for a recipe of your own.
        log_z: The estimate of `log Z`.
        log_z_standard_error: Its standard error.
        ess: The effective sample size of its own paths, as a fraction.
        seconds: The seconds since the start when it was evaluated.
    """

    kind: str
    log_z: float
    log_z_standard_error: float
    ess: float
    seconds: float


class Result(NamedTuple):
    """A sampler, trained where that was needed, and what is known of it.

    Attributes:
        samples: Weighted samples, in the user's structure.
        log_weights: Their log weights.
        log_z: The estimate of `log Z` with its standard error.
        report: The figures.
        verdict: Whether to trust them, and why, in a sentence.
        sampler: The sampler.
        history: The loss at each update; empty where nothing was trained.
        evaluations: The number of evaluations of the density, with its gradient or without, search and checks included.
        seconds: The seconds of the whole, and of what came before the evaluation.
        target: The target.
        recipe: What was trained, and why.
        state: Where training stands: `dds.training.resume` goes on from there.
        tried: All samplers that were evaluated on the way, in order, this one included.
    """

    samples: Any
    log_weights: Float[Array, " paths"]
    log_z: estimators.Estimate
    report: evaluation.Report
    verdict: str
    sampler: Sampler
    history: Float[np.ndarray, " updates"]
    evaluations: int
    seconds: tuple[float, float]
    target: Target
    recipe: recipes.Recipe
    state: training.TrainingState
    tried: tuple[Tried, ...] = ()


@typed
def evaluate(
    key: KeyArray,
    target: Target,
    recipe: recipes.Recipe,
    fit: training.Fit,
    *,
    paths: int = 10_000,
    goal: Goal = GOAL,
    explored: exploration.Explored | None = None,
    seconds: float = 0.0,
) -> Result:
    """Draws from a trained sampler, checks it against other points of the target, and says what it is worth.

    If the standard error of the paths asked for is above a quarter of the goal, or they are worth too few samples, and
    enough more cost less than what else there is to do, they are drawn. Where that does not do, or the weights have a
    heavy tail, paths of one step or more are refined (`dds.smc.refine`), and both kinds are taken together: then the
    weights are those of `dds.estimators.pool`, and log Z that of `dds.estimators.bridge`, or of the weights alone where
    that is the better one. Of more paths than were asked for, as many are
    resampled, with equal weights. Where the density is not a number a path has weight zero; the report says how many.

    Args:
        key: The random key.
        target: The target.
        recipe: What was trained.
        fit: What training returned.
        paths: The number of samples, and the least number of paths.
        goal: The goal, which decides how many paths are drawn, and whether they are refined.
        explored: Points to check by; by default it looks for them.
        seconds: The seconds that it took so far.

    Returns:
        The result.

    Example:
        >>> import dds
        >>> result = dds.sample(
        ...     jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=100
        ... )
        >>> fit = training.Fit(result.state.params, result.history, result.state)
        >>> evaluate(
        ...     jax.random.key(1), result.target, result.recipe, fit, paths=50
        ... ).log_weights.shape
        (50,)
    """
    started = time.perf_counter()
    draw_key, exact_key, forward_key, explore_key, check_key, refine_key, resample_key = split(key, 7)
    sampler = recipe.family.sampler(fit.params)
    weigh = partial(_weigh_back, recipe.family, target.log_density, fit.params)
    points, log_w, nan_share = _drawn(draw_key, target, recipe, fit, paths, goal)
    evaluations, each = sum(recipe.evaluations), _each(sampler)
    forward = None
    if target.sample is not None:
        exact = once(jax.vmap(target.sample))(jax.random.split(exact_key, paths))
        forward = weigh(forward_key, exact)
    if explored is None:
        explored = exploration.explore(explore_key, target.log_density, choices.starting_point(target))
        evaluations += explored.evaluations
    counted = len(log_w) + (0 if forward is None else paths) + len(explored.points)

    refined, log_z = None, estimators.log_z(log_w)
    if _refinable(sampler) and _is_poor(log_w, goal.precision):
        how = {"log_weights": log_w, "precision": goal.precision}
        refined = smc.refine(refine_key, sampler, target.log_density, REFINED, **how)
        log_z = estimators.bridge(log_w, refined.log_weights)
        evaluations += refined.evaluations
    checked, looked = _check(check_key, target, sampler, weigh, explored, points, log_w, refined, float(log_z.value))
    evaluations += looked
    report = evaluation.summarise(
        log_w,
        log_z_true=target.log_z,
        log_z_true_error=target.log_z_error,
        forward_log_weights=forward,
        refined_log_weights=None if refined is None else refined.log_weights,
        drift=0.0 if refined is None else refined.drift,
        settled=explored.settled,
        nan_share=nan_share,
        **checked,
    )
    points, log_w = _kept(resample_key, points, log_w, refined, report.log_z, paths)
    report = report._replace(samples=min(report.samples, float(paths)))
    spent = seconds + time.perf_counter() - started
    return Result(
        structured(target, jnp.asarray(points)),
        jnp.asarray(log_w),
        estimators.Estimate(jnp.asarray(report.log_z), jnp.asarray(report.log_z_standard_error)),
        report,
        trust.verdict(report),
        sampler,
        fit.losses,
        evaluations + counted * each,
        (spent, seconds),
        target,
        recipe,
        fit.state,
        (_tried(recipe, report, spent),),
    )


def _tried(recipe: recipes.Recipe, report: evaluation.Report, seconds: float) -> Tried:
    kind = "own" if recipe.plan is None else recipe.plan.kind
    return Tried(kind, report.log_z, report.log_z_standard_error, report.ess, seconds)


def _drawn(
    key: KeyArray, target: Target, recipe: recipes.Recipe, fit: training.Fit, paths: int, goal: Goal
) -> tuple[np.ndarray, np.ndarray, float]:
    """Ends of paths, as many as asked for or as are needed and cheap; their log weights; and the share without one."""
    first_key, more_key = split(key)
    draw = partial(_draw, recipe.family, target.log_density, fit.params)
    points, log_w = draw(first_key, paths)
    sampler = recipe.family.sampler(fit.params)
    cheap = OWN if _refinable(sampler) else CHEAP // (steps(sampler) + 1)
    more = _more(np.where(np.isnan(log_w), -np.inf, log_w), paths, goal, min(cheap, MEMORY // target.dim))
    if more > 0:
        others = draw(more_key, more)
        points, log_w = np.concatenate([points, others[0]]), np.concatenate([log_w, others[1]])
    broken = np.isnan(log_w)
    return points, np.where(broken, -np.inf, log_w), float(np.mean(broken))


def _more(log_weights: np.ndarray, paths: int, goal: Goal, most: int) -> int:
    """How many more paths bring the standard error to a quarter of the goal, or at least below it; at most so many."""
    error, count = float(estimators.log_z(log_weights).standard_error), log_weights.size
    if not np.isfinite(error):
        return 0
    few = int(min(goal.draws, paths) / float(estimators.effective_sample_size(log_weights))) + 1
    enough, good = (max(int(count * (parts * error / goal.precision) ** 2), few) for parts in (1.25, 4))
    return max(min(good, most) - count, 0) if enough <= most else 0


def _refinable(sampler: Sampler) -> bool:
    """Whether paths can be refined: they have steps, and there is room for what they are made of."""
    return steps(sampler) > 0 and REFINED * noise_size(sampler) <= ROOM


def _each(sampler: Sampler) -> int:
    """The evaluations of the density that a path costs, in either direction."""
    return steps(sampler) + 2


def _kept(
    key: KeyArray, points: np.ndarray, log_weights: np.ndarray, refined: smc.Refined | None, log_z: float, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The samples of a result, of both kinds of paths, and as many as were asked for."""
    if refined is not None:
        points = np.concatenate([points, refined.points])
        log_weights = np.asarray(estimators.pool(log_weights, refined.log_weights, jnp.asarray(log_z)))
    if len(log_weights) > count and np.isfinite(log_z):
        points = points[np.asarray(estimators.resample(key, log_weights, count))]
        log_weights = np.full(count, log_z, log_weights.dtype)
    return points, log_weights


def _is_poor(log_weights: np.ndarray, precision: float) -> bool:
    """Whether weights alone do not do: by their error, their number or their tail."""
    if not np.isfinite(float(estimators.log_z(log_weights).value)):
        return False
    report = evaluation.summarise(log_weights)
    light = all(finding.holds for finding in trust.findings(report))
    return not (light and report.ess > estimators.POOR and report.log_z_standard_error <= precision)


def _check(
    key: KeyArray,
    target: Target,
    sampler: Sampler,
    weigh: Callable,
    explored: exploration.Explored,
    points: np.ndarray,
    log_weights: np.ndarray,
    refined: smc.Refined | None,
    log_z: float,
) -> tuple[dict[str, Any], int]:
    """What else says something of a sampler, as arguments of `dds.evaluation.summarise`, and the evaluations it took.

    Modes and particles found otherwise, the density itself farther out, and chains that leave where the samples are.
    """
    particles_key, modes_key, far_key, chains_key = split(key, 4)
    again = exploration.PATHS if steps(sampler) else 1
    asked = target.log_density, partial(weigh, modes_key), log_z, explored.modes
    shares, evaluations, weighed = exploration.uncovered(*asked, paths=again)
    evaluations += weighed * _each(sampler)
    checked: dict[str, Any] = {"missed_modes": float(shares.sum()) if explored.modes.evaluations else None}
    if explored.settled is not None:
        checked["explored_log_weights"] = weigh(particles_key, explored.points)
    if not np.isfinite(log_weights).any():
        return checked, evaluations
    missed = explored.points[:0]
    ess = float(estimators.effective_sample_size(log_weights))
    if ess >= estimators.POOR or ess * len(log_weights) >= SEVERAL:  # fewer samples say nothing of farther ones
        weigh_far = partial(weigh, far_key)
        far = tails.beyond(far_key, target.log_density, sampler.coordinates, weigh_far, points, log_weights)
        evaluations += far.evaluations + far.weighed * _each(sampler)
        checked["missed_tails"] = far.share
        missed = far.points if far.share > trust.MISSED_TAILS else missed
        highest = float(np.max(log_weights))
        alone = np.any(checked.get("explored_log_weights", -np.inf) > highest + tails.APART)  # where no path goes
        # Without climbs nothing is known of derivatives.
        if explored.modes.evaluations and (alone or evaluation.has_heavy_tail(log_weights)):
            start = (points, log_weights) if refined is None else (refined.points, jnp.zeros(len(refined.points)))
            left = tails.escaped(chains_key, target.log_density, weigh_far, *start, highest=highest)
            evaluations += left.evaluations + left.weighed * _each(sampler)
            checked["escaped"] = left.share
            missed = left.points if left.share > trust.ESCAPED else missed
    if shares.sum() > trust.MISSED_MODES:
        missed = explored.modes.points[int(np.argmax(shares))][None]
    elif explored.settled:
        large = evaluation.large(log_weights, checked["explored_log_weights"])
        missed = explored.points[large] if large.mean() > trust.MISSED else missed
    return checked | {"where": evaluation.differences(missed, points, log_weights)}, evaluations


@typed
def draw(key: KeyArray, result: Result, count: int) -> Draws:
    """Draws more weighted samples from a trained sampler, in bounded memory besides the samples themselves.

    Args:
        key: The random key; another than that of the result.
        result: The result.
        count: How many, at least 1.

    Returns:
        The samples and their log weights.

    Raises:
        ValueError: If `count` is below 1.

    Example:
        >>> import dds
        >>> result = dds.sample(
        ...     jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=100
        ... )
        >>> draw(jax.random.key(1), result, 10).samples.shape
        (10, 2)
    """
    require(count >= 1, "count", count, "at least 1")
    points, log_w = _draw(result.recipe.family, result.target.log_density, result.state.params, key, count)
    return Draws(structured(result.target, jnp.asarray(points)), jnp.asarray(log_w))


@typed
def resample(key: KeyArray, result: Result | Draws, count: int) -> Any:
    """Draws samples of equal weight, in random order, in the structure of the user's parameters.

    Args:
        key: The random key.
        result: The result, or weighted samples.
        count: How many, at least 1; more than the effective sample size are copies.

    Returns:
        The samples.

    Raises:
        ValueError: If `count` is below 1, or a weight is not a number.

    Example:
        >>> import dds
        >>> like = {"a": jnp.zeros(2)}
        >>> result = dds.sample(
        ...     jax.random.key(0),
        ...     lambda tree: -jnp.sum(tree["a"] ** 2),
        ...     like,
        ...     paths=100,
        ... )
        >>> resample(jax.random.key(1), result, 10)["a"].shape
        (10, 2)
    """
    choose_key, shuffle_key = split(key)
    chosen = estimators.resample(choose_key, result.log_weights, count)
    chosen = jax.random.permutation(shuffle_key, chosen)
    return jax.tree.map(lambda leaf: leaf[chosen], result.samples)


@typed
def named(samples: Any) -> dict[str, Any]:
    """The leaves of samples by name: the keys on the way to a leaf, with points between them.

    Args:
        samples: The samples, in the structure of the user's parameters.

    Returns:
        The leaves by name; an array that is no PyTree is called `x`.

    Raises:
        ValueError: If two leaves have the same name.

    Example:
        >>> list(named({"mu": jnp.zeros(5), "school": (jnp.ones(5), jnp.ones(5))}))
        ['mu', 'school.0', 'school.1']
    """
    leaves = jax.tree_util.tree_leaves_with_path(samples)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") or "x" for path, _ in leaves]
    require(len(set(names)) == len(names), "the names of the parameters", names, "different from each other")
    return {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True)}


def _draw(
    family: Family, log_density: LogDensity, params: Params, key: KeyArray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of paths and their log weights."""
    chunks = range(math.ceil(count / CHUNK))
    parts = [_draw_chunk(family, log_density, params, key, i) for i in chunks]
    return _joined([part[0] for part in parts], count), _joined([part[1] for part in parts], count)


@partial(devices.program, static=2, compiler_options=QUICK)
def _draw_chunk(family: Family, log_density: LogDensity, params: Params, key: KeyArray, i: int):
    sampler = family.sampler(params)

    def one(key: KeyArray):
        path = sample_path(key, sampler)
        return path.x, losses.log_weight(path, log_density)

    return devices.share(one, batch_size=_at_once(sampler))(jax.random.split(jax.random.fold_in(key, i), CHUNK))


def _weigh_back(
    family: Family, log_density: LogDensity, params: Params, key: KeyArray, points: Array
) -> Float[np.ndarray, " points"]:
    """The log weights of paths noised from points of the target."""
    count = len(points)
    padded = np.concatenate([np.asarray(points), np.broadcast_to(points[-1:], (-count % CHUNK, points.shape[1]))])
    parts = [
        _weigh_chunk(family, log_density, params, key, i, padded[i * CHUNK : (i + 1) * CHUNK])
        for i in range(len(padded) // CHUNK)
    ]
    return _joined(parts, count)


@partial(devices.program, static=2, compiler_options=QUICK)
def _weigh_chunk(family: Family, log_density: LogDensity, params: Params, key: KeyArray, i: int, points: Array):
    sampler = family.sampler(params)

    def one(key: KeyArray, x: Array):
        return losses.log_weight(noise_path(key, sampler, x), log_density)

    keys = jax.random.split(jax.random.fold_in(key, i), CHUNK)
    return devices.share(one, batch_size=_at_once(sampler))(keys, points)


def _at_once(sampler: Sampler) -> int | None:
    """How many paths are drawn side by side, where a chunk of them would take a gigabyte; else `None`."""
    prior = sampler.prior
    matrix = prior.means.shape[1] ** 2 if isinstance(prior, Mixture) and len(prior.means) > 1 else 0
    if isinstance(sampler.coordinates, Bijection):  # of a neck: up to eight nodes of its table, a matrix each
        matrix += 8 * sampler.coordinates.dim**2
    most = max(2**28 // (8 * noise_size(sampler) + matrix), 1)
    return most if most < CHUNK else None


def _joined(parts: list[Array], count: int) -> np.ndarray:
    return np.concatenate([np.asarray(part) for part in parts])[:count]


@typed
def structured(target: Target, points: Float[Arrays, "points dim"]) -> Any:
    """Points in the structure of the user's parameters.

    Args:
        target: The target.
        points: Points in its coordinates.

    Returns:
        The parameters, each leaf with a leading axis.

    Example:
        >>> from dds import targets
        >>> target = targets.from_log_density(
        ...     lambda tree: -jnp.sum(tree["a"] ** 2), {"a": jnp.zeros(2)}
        ... )
        >>> structured(target, jnp.ones((5, 2)))["a"].shape
        (5, 2)
    """
    return points if target.structure is None else jax.vmap(target.structure)(points)
