"""From a log density to samples, log Z and a verdict in one call, and what can be done with the result."""

import math
import time
from collections.abc import Callable
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dds import estimators, evaluation, losses, recipes, smc, storage, targets, training
from dds import search as looking
from dds.checks import require, typed
from dds.compiling import once
from dds.paths import noise_path, sample_path, steps
from dds.types import Family, KeyArray, LogDensity, Params, Sampler, Target

CHUNK = 1000
"""The number of paths that are drawn or weighed at a time: it bounds the memory."""

REFINED = 2000
"""The number of paths that are refined where weights alone do not do."""

POOR = 0.1
"""The effective sample size below which paths are refined, and further recipes tried, however many paths there are."""

MEMORY = 2**24
"""The most numbers that more paths may take to store."""

BLOCK = 25
"""The number of updates between two reports of the training."""


class Draws(NamedTuple):
    """Weighted samples.

    Attributes:
        samples: The samples, in the user's structure, each with a leading axis.
        log_weights: Their log weights.
    """

    samples: Any
    log_weights: Float[Array, " paths"]


class Result(NamedTuple):
    """A trained sampler, and what is known of it.

    Attributes:
        samples: Weighted samples, in the user's structure.
        log_weights: Their log weights.
        log_z: The estimate of `log Z` with its standard error.
        report: The figures.
        verdict: Whether to trust them, and why, in a sentence.
        sampler: The trained sampler.
        history: The loss at each update.
        evaluations: The number of evaluations of the density, with its gradient or without, search and checks included.
        seconds: The seconds of the whole, and of what came before the evaluation.
        target: The target.
        recipe: What was trained, and why.
        state: Where training stands: `dds.training.resume` goes on from there.
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


@typed
def sample(
    key: KeyArray,
    log_density: Callable[[Any], Any] | Target,
    like: Any = None,
    *,
    precision: float = 0.01,
    draws: int = 1000,
    paths: int = 10_000,
    scale: float = 1.0,
    recipe: recipes.Recipe | None = None,
    progress: Callable[[recipes.Recipe], training.Callback] | None = None,
) -> Result:
    """Draws weighted samples from an unnormalised density and estimates its normalising constant.

    It looks at the target (`look`), and tries recipes (`dds.recipes.ladder`), the cheapest first, each trained
    (`dds.training.fit`) and checked (`evaluate`), until the goal is met: a standard error of log Z and an effective
    number of samples, and nothing that speaks against them. If none meets it, the best is returned.

    Args:
        key: The random key.
        log_density: The log density, unnormalised; or a `Target`, of `dds.targets` for instance.
        like: The dimension of a point, or an example PyTree of parameters; nothing if a target is given.
        precision: The goal for the standard error of log Z.
        draws: The goal for the effective number of samples.
        paths: The number of samples. Where more paths are cheap and needed for the goal, they are drawn, too; then the
            samples are resampled from all of them, with equal weights.
        scale: How far out to look: the standard deviation of a normal distribution that reaches all modes. A target
            brings its own.
        recipe: What to train, and how, instead of the ladder.
        progress: What shows the progress, as `dds.progress.bar` or `dds.progress.lines`.

    Returns:
        The result.

    Raises:
        ValueError: If the density is not one (`dds.targets.from_log_density`), there are too few paths, or a goal is
            not positive.

    Example:
        >>> result = sample(jax.random.key(0), lambda x: -jnp.sum((x - 3) ** 2) / 2, 2, paths=1000)
        >>> result.samples.shape, round(float(result.log_z.value), 2)
        ((1000, 2), 1.84)
    """
    require(paths >= estimators.LEAST, "paths", paths, f"at least {estimators.LEAST}")
    require(precision > 0, "precision", precision, "positive")
    require(draws >= 1, "draws", draws, "at least 1")
    target = as_target(log_density, like, scale=scale)
    look_key, ladder_key, train_key, evaluate_key = jax.random.split(key, 4)
    started, best = time.perf_counter(), None
    found, explored = look(look_key, target, precision=precision, search=recipe is None)
    rungs = [recipe] if recipe is not None else []
    rungs = rungs if found is None else recipes.ladder(ladder_key, target, found)
    for i, rung in enumerate(rungs):
        callback = None if progress is None else progress(rung)
        family, loss, optimiser, updates, *_ = rung
        train = jax.random.fold_in(train_key, i)
        fit = training.fit(train, family, loss, optimiser, updates, block=BLOCK, callback=callback)
        seconds = time.perf_counter() - started
        goal: Any = {"precision": precision, "draws": draws}
        again: Any = {"paths": paths, "explored": explored, "seconds": seconds} | goal
        best = better(best, evaluate(jax.random.fold_in(evaluate_key, i), target, rung, fit, **again))
        if met(best, precision, draws):
            break
    assert best is not None
    return best


@typed
def look(
    key: KeyArray, target: Target, *, precision: float = 0.01, search: bool = True
) -> tuple[looking.Found | None, looking.Explored]:
    """Looks at a target: what there is to start from, and points to check samplers by.

    The two looks are independent. If the second finds modes that the first does not know, the first is made again with
    them, and so is the second; if its particles lie where the first would not draw, a component is added for them.

    Args:
        key: The random key.
        target: The target.
        precision: As in `sample`.
        search: Whether to look for what to start from, too.

    Returns:
        What `dds.search.search` found, or `None`, and what `dds.search.explore` found.

    Example:
        >>> found, explored = look(jax.random.key(0), targets.gaussian(jnp.ones(2), jnp.eye(2)))
        >>> found.ess > 0.9, explored.settled
        (True, True)
    """
    keys = jax.random.split(key, 6)
    start, log_density = recipes.starting_point(target), target.log_density
    explored = looking.explore(keys[0], log_density, start)
    if not search:
        return None, explored
    found = looking.search(keys[1], log_density, start, precision=precision)
    for i in (2, 4):
        if found.ess == 0 or target.dim > looking.DENSE:
            break
        recipe = next(recipes.ladder(key, target, found))
        back = partial(_weigh_back, recipe.family, log_density, ())
        draw_key, modes_key, points_key, search_key = jax.random.split(keys[i], 4)
        log_w = _draw(recipe.family, log_density, (), draw_key, 4000)[1]
        log_z = float(estimators.log_z(jnp.where(jnp.isnan(log_w), -jnp.inf, log_w)).value)
        if looking.uncovered(partial(back, modes_key), log_z, explored.modes).sum() > evaluation.MISSED_MODES:
            known = explored.modes
            found = looking.search(search_key, log_density, start, known=known, precision=precision)
            explored = looking.explore(keys[i + 1], log_density, start)
            continue
        missed = evaluation.large(log_w, back(points_key, explored.points))
        if explored.settled and missed.mean() > evaluation.MISSED:
            found = looking.extend(search_key, log_density, found, explored.points[missed])
        break
    return found, explored


@typed
def met(result: Result, precision: float, draws: int) -> bool:
    """Whether a result meets a goal; the truth and exact samples, which users do not have, are not asked.

    Args:
        result: The result.
        precision: As in `sample`.
        draws: As in `sample`.

    Returns:
        Whether so.

    Example:
        >>> met(sample(jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2), 0.01, 1000)
        True
    """
    report = result.report
    good = report.log_z_standard_error <= precision and report.samples >= draws and report.ess >= POOR
    return bool(good and not _reasons(report))


@typed
def better(one: Result | None, other: Result) -> Result:
    """The better of two results: with fewer doubts, else with the smaller standard error.

    Args:
        one: A result, or `None`.
        other: Another.

    Returns:
        One of them.

    Example:
        >>> result = sample(jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=100)
        >>> better(None, result) is result
        True
    """
    if one is None:
        return other

    def rank(result: Result) -> tuple[int, float]:
        return _reasons(result.report), np.nan_to_num(result.report.log_z_standard_error, nan=np.inf)

    return one if rank(one) < rank(other) else other


def _reasons(report: evaluation.Report) -> int:
    blind = report._replace(log_z_true=None, forward_ess=None)
    return sum(not finding.holds for finding in evaluation.findings(blind))


@typed
def evaluate(
    key: KeyArray,
    target: Target,
    recipe: recipes.Recipe,
    fit: training.Fit,
    *,
    paths: int = 10_000,
    precision: float = 0.01,
    draws: int = 1000,
    explored: looking.Explored | None = None,
    seconds: float = 0.0,
) -> Result:
    """Draws from a trained sampler, checks it against other points of the target, and says what it is worth.

    If the standard error of the paths asked for is above a quarter of the goal, or they are worth too few samples, and
    paths are cheap, more are drawn.
    Where that is not enough, or the weights have a heavy tail, paths of one step or more are refined
    (`dds.smc.refine`), and both kinds are taken together: then the weights are those of `dds.estimators.pool`, and log
    Z that of `dds.estimators.bridge`. Of more paths than were asked for, as many are resampled, with equal weights.

    Args:
        key: The random key.
        target: The target.
        recipe: What was trained.
        fit: What training returned.
        paths: The number of samples, and the least number of paths.
        precision: The goal for the standard error of log Z.
        draws: The goal for the effective number of samples.
        explored: Points to check by; by default it looks for them.
        seconds: The seconds that it took so far.

    Returns:
        The result.

    Example:
        >>> result = sample(jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=100)
        >>> fit = training.Fit(result.state.params, result.history, result.state)
        >>> evaluate(jax.random.key(1), result.target, result.recipe, fit, paths=50).log_weights.shape
        (50,)
    """
    started = time.perf_counter()
    keys = jax.random.split(key, 8)
    draw_key, more_key, exact_key, forward_key, explore_key, explored_key, refine_key, resample_key = keys
    sampler, log_density = recipe.family.sampler(fit.params), target.log_density
    points, log_w = _draw(recipe.family, log_density, fit.params, draw_key, paths)
    more = _more(log_w, precision, draws, looking.CHEAP // (steps(sampler) + 1), target.dim)
    if more > 0:
        others = _draw(recipe.family, log_density, fit.params, more_key, more)
        points, log_w = jnp.concatenate([points, others[0]]), jnp.concatenate([log_w, others[1]])
    back, forward = partial(_weigh_back, recipe.family, log_density, fit.params), None
    counted = len(log_w)
    if target.sample is not None:
        exact = jax.jit(jax.vmap(target.sample))(jax.random.split(exact_key, paths))
        forward = back(forward_key, exact)
        counted += paths
    if explored is None:
        explored = looking.explore(explore_key, log_density, recipes.starting_point(target))
    seen = len(explored.points)
    weights = back(explored_key, explored.points) if seen else None
    counted += seen

    refined = None
    if steps(sampler) > 0 and _is_poor(log_w, precision):
        refined = smc.refine(refine_key, sampler, log_density, REFINED)
    log_z = estimators.log_z(log_w) if refined is None else estimators.bridge(log_w, refined.log_weights)
    shares = np.zeros(0)
    if len(explored.modes.points) and target.dim <= looking.DENSE:

        def weigh(x: Array) -> Array:
            return back(jax.random.fold_in(explored_key, 1), x)

        shares = looking.uncovered(weigh, float(log_z.value), explored.modes)
    report = evaluation.summarise(
        log_w,
        log_z_true=target.log_z,
        log_z_true_error=target.log_z_error,
        forward_log_weights=forward,
        explored_log_weights=weights,
        refined_log_weights=None if refined is None else refined.log_weights,
        missed_modes=float(shares.sum()) if target.dim <= looking.DENSE else None,
        settled=explored.settled,
        where=_where(points, log_w, explored, weights, shares),
    )
    evaluations = sum(recipe.evaluations) + explored.evaluations + counted * (steps(sampler) + 2)
    if refined is not None:
        evaluations += refined.evaluations
        points = jnp.concatenate([points, refined.points])
        log_w = estimators.pool(log_w, refined.log_weights, log_z.value)
    if len(log_w) > paths and np.isfinite(report.log_z):
        chosen = estimators.resample(resample_key, log_w, paths)
        points, log_w = points[chosen], jnp.full(paths, report.log_z, log_w.dtype)
    spent = (seconds + time.perf_counter() - started, seconds)
    return Result(
        _structured(target, points),
        log_w,
        estimators.Estimate(jnp.asarray(report.log_z), jnp.asarray(report.log_z_standard_error)),
        report,
        evaluation.verdict(report),
        sampler,
        fit.losses,
        evaluations,
        spent,
        target,
        recipe,
        fit.state,
    )


def _more(log_weights: Array, precision: float, draws: int, most: int, dim: int) -> int:
    """How many more paths bring the standard error to a quarter of the goal, or at least to half, if they are cheap."""
    error, count = float(estimators.log_z(log_weights).standard_error), log_weights.size
    if not np.isfinite(error):
        return 0
    room, few = min(most, MEMORY // dim), int(draws / float(estimators.effective_sample_size(log_weights))) + 1
    enough, good = (max(int(count * (parts * error / precision) ** 2), few) for parts in (2, 4))
    return max(min(good, room) - count, 0) if enough <= room else 0


def _is_poor(log_weights: Array, precision: float) -> bool:
    """Whether weights alone do not do: by their error, their number or their tail."""
    if not np.isfinite(float(estimators.log_z(log_weights).value)):
        return False
    report = evaluation.summarise(log_weights)
    light = all(finding.holds for finding in evaluation.findings(report))
    return not (light and report.ess > POOR and report.log_z_standard_error <= precision)


def _where(points: Array, log_weights: Array, explored: looking.Explored, weights: Any, shares: np.ndarray) -> str:
    """Where the missed part lies, if there is one."""
    if shares.sum() > evaluation.MISSED_MODES:
        return evaluation.differences(explored.modes.points[int(np.argmax(shares))][None], points, log_weights)
    if weights is None or explored.settled is False or not np.isfinite(log_weights).any():
        return ""
    large = evaluation.large(log_weights, weights)
    if not large.mean() > evaluation.MISSED:
        return ""
    return evaluation.differences(explored.points[large], points, log_weights)


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
        >>> result = sample(jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=100)
        >>> draw(jax.random.key(1), result, 10).samples.shape
        (10, 2)
    """
    require(count >= 1, "count", count, "at least 1")
    points, log_w = _draw(result.recipe.family, result.target.log_density, result.state.params, key, count)
    return Draws(_structured(result.target, points), log_w)


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
        >>> result = sample(jax.random.key(0), lambda tree: -jnp.sum(tree["a"] ** 2), {"a": jnp.zeros(2)}, paths=100)
        >>> resample(jax.random.key(1), result, 10)["a"].shape
        (10, 2)
    """
    choose_key, shuffle_key = jax.random.split(key)
    chosen = estimators.resample(choose_key, result.log_weights, count)
    chosen = jax.random.permutation(shuffle_key, chosen)
    return jax.tree.map(lambda leaf: leaf[chosen], result.samples)


@typed
def save(path: str | PathLike[str], result: Result) -> None:
    """Writes a result to one file, whole or not at all: a NumPy archive without pickle.

    The density is code, and not in it. A recipe of your own is code, too: `load` takes it again.

    Args:
        path: The file.
        result: The result.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> result = sample(jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=100)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/run.npz", result)
        ...     again = load(f"{folder}/run.npz", lambda x: -jnp.sum(x**2) / 2)
        >>> bool((again.log_weights == result.log_weights).all())
        True
    """
    plan = result.recipe.plan
    header = {
        "kind": "result",
        "dim": result.target.dim,
        "structure": _describe(result.samples),
        "plan": None if plan is None else recipes.describe(plan),
        "report": result.report._asdict(),
        "verdict": result.verdict,
        "evaluations": result.evaluations,
        "seconds": result.seconds,
        "paths": len(result.log_weights),
        "updates": len(result.history),
    }
    storage.save(path, _tree(result.samples, result.log_weights, result.history, result.state, plan), header=header)


@typed
def load(
    path: str | PathLike[str], log_density: Callable[[Any], Any] | Target, *, recipe: recipes.Recipe | None = None
) -> Result:
    """Reads a result: given the same density the same sampler, bit for bit.

    Args:
        path: The file.
        log_density: The log density of before, or the target.
        recipe: The recipe, where it was one of your own.

    Returns:
        The result.

    Raises:
        ValueError: If the file is not a whole result of this version, or not one of this density.
        OSError: If the file cannot be read.

    Example:
        >>> load("no-such-file.npz", lambda x: -jnp.sum(x**2) / 2)
        Traceback (most recent call last):
        FileNotFoundError: [Errno 2] No such file or directory: 'no-such-file.npz'
    """
    header = storage.read_header(path)
    require(header.get("kind") == "result", f"the file {path}", header.get("kind", "something else"), "a result")
    target = _target_of(header, log_density)
    if recipe is None:
        require(header["plan"] is not None, "recipe", None, "given, for that of the file was one of your own")
        recipe = recipes.build(recipes.template(header["plan"]), target)
    point = jnp.zeros(target.dim)
    one = point if target.structure is None else target.structure(point)
    samples = jax.tree.map(lambda leaf: np.zeros((header["paths"], *jnp.shape(leaf)), jnp.result_type(leaf)), one)
    state = training.start(jax.random.key(0), recipe.family, recipe.optimiser)
    weights, history = (np.zeros(header[name], point.dtype) for name in ("paths", "updates"))
    report = header["report"]
    tree = storage.load(path, _tree(samples, weights, history, state, recipe.plan))
    if recipe.plan is not None:
        recipe = recipes.build(recipe.plan._replace(**tree["plan"]), target)
    return Result(
        tree["samples"],
        tree["log_weights"],
        estimators.Estimate(*(jnp.asarray(report[name]) for name in ("log_z", "log_z_standard_error"))),
        evaluation.Report(**report),
        header["verdict"],
        recipe.family.sampler(tree["state"].params),
        np.asarray(tree["history"]),
        header["evaluations"],
        (header["seconds"][0], header["seconds"][1]),
        target,
        recipe,
        tree["state"],
    )


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
        >>> as_target(lambda x: -jnp.sum(x**2), 3).dim
        3
    """
    if isinstance(log_density, Target):
        require(like is None, "like", like, "left out, for the target has its own")
        return log_density
    require(like is not None, "like", like, "the dimension of a point, or an example PyTree of parameters")
    return targets.from_log_density(log_density, like, scale=scale)


def _draw(family: Family, log_density: LogDensity, params: Params, key: KeyArray, count: int) -> tuple[Array, Array]:
    """The ends of paths and their log weights."""
    chunks = range(math.ceil(count / CHUNK))
    parts = [_draw_chunk(family, log_density, params, jax.random.fold_in(key, i)) for i in chunks]
    return _joined([part[0] for part in parts], count), _joined([part[1] for part in parts], count)


@partial(once, static_argnums=(0, 1))
def _draw_chunk(family: Family, log_density: LogDensity, params: Params, key: KeyArray):
    sampler = family.sampler(params)

    def one(key: KeyArray):
        path = sample_path(key, sampler)
        return path.x, losses.log_weight(path, log_density)

    return jax.vmap(one)(jax.random.split(key, CHUNK))


def _weigh_back(
    family: Family, log_density: LogDensity, params: Params, key: KeyArray, points: Array
) -> Float[Array, " points"]:
    """The log weights of paths noised from points of the target."""
    count = len(points)
    padded = np.concatenate([np.asarray(points), np.broadcast_to(points[-1:], (-count % CHUNK, points.shape[1]))])
    parts = [
        _weigh_chunk(family, log_density, params, jax.random.fold_in(key, i), padded[i * CHUNK : (i + 1) * CHUNK])
        for i in range(len(padded) // CHUNK)
    ]
    return _joined(parts, count)


@partial(once, static_argnums=(0, 1))
def _weigh_chunk(family: Family, log_density: LogDensity, params: Params, key: KeyArray, points: Array):
    sampler = family.sampler(params)

    def one(key: KeyArray, x: Array):
        return losses.log_weight(noise_path(key, sampler, x), log_density)

    return jax.vmap(one)(jax.random.split(key, CHUNK), points)


def _joined(parts: list[Array], count: int) -> Array:
    return jnp.asarray(np.concatenate([np.asarray(part) for part in parts])[:count])


def _structured(target: Target, points: Array) -> Any:
    return points if target.structure is None else jax.vmap(target.structure)(points)


def _tree(samples: Any, log_weights: Any, history: Any, state: training.TrainingState, plan: recipes.Plan | None):
    """What a file holds."""
    arrays = None if plan is None else recipes.arrays_of(plan)
    history = np.asarray(history, log_weights.dtype)
    return {"samples": samples, "log_weights": log_weights, "history": history, "state": state, "plan": arrays}


def _describe(tree: Any) -> Any:
    """A PyTree of dictionaries, lists and tuples of samples as what JSON can hold; "other" where it is none."""
    if isinstance(tree, dict) and all(isinstance(name, str) for name in tree):
        return {"dict": {name: _describe(child) for name, child in tree.items()}}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [_describe(child) for child in tree]}
    if isinstance(tree, jax.Array | np.ndarray):
        return [list(tree.shape[1:]), tree.dtype.name]
    return "other"


def _example(description: Any) -> Any:
    """A PyTree of zeros like the described one."""
    if isinstance(description, list):
        return jnp.zeros(*description)
    require(
        description != "other", "log_density", "a function", "the target, whose samples have a structure of their own"
    )
    ((kind, children),) = description.items()
    if kind == "dict":
        return {name: _example(child) for name, child in children.items()}
    return {"list": list, "tuple": tuple}[kind](_example(child) for child in children)


def _target_of(header: dict[str, Any], log_density: Callable[[Any], Any] | Target) -> Target:
    """The target of a file, of a density that is not tried again."""
    if isinstance(log_density, Target):
        require(log_density.dim == header["dim"], "the dimension of the target", log_density.dim, f"{header['dim']}")
        return log_density
    example = _example(header["structure"])
    if isinstance(example, jax.Array) and example.shape == (header["dim"],):
        return Target(header["dim"], log_density)
    flat, unravel = ravel_pytree(example)
    require(flat.size == header["dim"], "log_density", "a function", "the target, whose samples are transformed")
    return Target(header["dim"], lambda x: log_density(unravel(x)), structure=unravel)
