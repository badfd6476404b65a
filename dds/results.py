"""From a log density to samples, log Z and a verdict in one call, and what can be done with the result."""

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

from dds import coordinates, estimators, evaluation, losses, recipes, smc, storage, targets, training
from dds.checks import require, typed
from dds.paths import noise_path, sample_path, steps
from dds.types import Family, KeyArray, LogDensity, Params, Sampler, Target

EXPLORERS = 1000
"""The number of tempered particles, of their own, that are asked what the sampler missed."""

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
    paths: int = 10_000,
    scale: float = 1.0,
    recipe: recipes.Recipe | None = None,
    progress: Callable[[recipes.Recipe], training.Callback] | None = None,
) -> Result:
    """Draws weighted samples from an unnormalised density and estimates its normalising constant.

    It is three functions in a row, each of use alone: `dds.recipes.choose`, `dds.training.fit` and `evaluate`.

    Args:
        key: The random key.
        log_density: The log density, unnormalised; or a `Target`, of `dds.targets` for instance.
        like: The dimension of a point, or an example PyTree of parameters; nothing if a target is given.
        paths: The number of paths that are drawn in the end.
        scale: How far out to look: the standard deviation of a normal distribution that reaches all modes. A target
            brings its own.
        recipe: What to train, and how; by default what `dds.recipes.choose` makes of the target.
        progress: What shows the progress, as `dds.progress.bar` or `dds.progress.lines`.

    Returns:
        The result.

    Raises:
        ValueError: If the density is not one (`dds.targets.from_log_density`), or there are too few paths.

    Example:
        >>> result = sample(jax.random.key(0), lambda x: -jnp.sum((x - 3) ** 2) / 2, 2, paths=1000)
        >>> result.samples.shape, round(float(result.log_z.value), 2)
        ((1000, 2), 1.84)
    """
    require(paths >= estimators.LEAST, "paths", paths, f"at least {estimators.LEAST}")
    target = as_target(log_density, like, scale=scale)
    choose_key, fit_key, evaluate_key = jax.random.split(key, 3)
    started = time.perf_counter()
    if recipe is None:
        recipe = recipes.choose(choose_key, target)
    callback = None if progress is None else progress(recipe)
    family, loss, optimiser, updates, *_ = recipe
    fit = training.fit(fit_key, family, loss, optimiser, updates, block=BLOCK, callback=callback)
    return evaluate(evaluate_key, target, recipe, fit, paths=paths, seconds=time.perf_counter() - started)


@typed
def evaluate(
    key: KeyArray,
    target: Target,
    recipe: recipes.Recipe,
    fit: training.Fit,
    *,
    paths: int = 10_000,
    seconds: float = 0.0,
) -> Result:
    """Draws from a trained sampler, checks it against other points of the target, and says what it is worth.

    Args:
        key: The random key.
        target: The target.
        recipe: What was trained.
        fit: What training returned.
        paths: The number of paths.
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
    draw_key, exact_key, forward_key, explore_key, explored_key = jax.random.split(key, 5)
    sampler = recipe.family.sampler(fit.params)
    points, log_w = _draw(recipe.family, target.log_density, fit.params, jax.random.split(draw_key, paths))
    back, forward = partial(_weigh_back, recipe.family, target.log_density, fit.params), None
    counted = paths
    if target.sample is not None:
        exact = jax.jit(jax.vmap(target.sample))(jax.random.split(exact_key, paths))
        forward = back(jax.random.split(forward_key, paths), exact)
        counted += paths
    start = recipes.starting_point(target)
    fitted = recipe.plan.coordinates if recipe.plan is not None else start
    # In many dimensions a wide start takes too long.
    wide, count = (start, EXPLORERS) if target.dim <= coordinates.DENSE else (fitted, EXPLORERS // 10)
    particles = smc.temper(explore_key, target.log_density, wide, count, coordinates=fitted)
    explored = back(jax.random.split(explored_key, count), particles.points)
    report = evaluation.summarise(
        log_w,
        log_z_true=target.log_z,
        log_z_true_error=target.log_z_error,
        forward_log_weights=forward,
        explored_log_weights=explored,
    )
    evaluations = sum(recipe.evaluations) + particles.evaluations + (counted + count) * (steps(sampler) + 2)
    spent = (seconds + time.perf_counter() - started, seconds)
    return Result(
        _structured(target, points),
        log_w,
        estimators.log_z(log_w),
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
    keys = jax.random.split(key, count)
    points, log_w = _draw(result.recipe.family, result.target.log_density, result.state.params, keys)
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
    tree = storage.load(path, _tree(samples, weights, history, state, recipe.plan))
    if recipe.plan is not None:
        recipe = recipes.build(recipe.plan._replace(**tree["plan"]), target)
    return Result(
        tree["samples"],
        tree["log_weights"],
        estimators.log_z(tree["log_weights"]),
        evaluation.Report(**header["report"]),
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


@partial(jax.jit, static_argnums=(0, 1))
def _draw(family: Family, log_density: LogDensity, params: Params, keys: Array):
    """The ends of paths and their log weights, in batches that bound the memory."""
    sampler = family.sampler(params)

    def one(key: KeyArray):
        path = sample_path(key, sampler)
        return path.x, losses.log_weight(path, log_density)

    return jax.lax.map(one, keys, batch_size=1000)


@partial(jax.jit, static_argnums=(0, 1))
def _weigh_back(family: Family, log_density: LogDensity, params: Params, keys: Array, points: Array):
    """The log weights of paths noised from points of the target."""
    sampler = family.sampler(params)

    def one(inputs):
        return losses.log_weight(noise_path(inputs[0], sampler, inputs[1]), log_density)

    return jax.lax.map(one, (keys, points), batch_size=1000)


def _structured(target: Target, points: Array) -> Any:
    return points if target.structure is None else jax.vmap(target.structure)(points)


def _tree(samples: Any, log_weights: Any, history: Any, state: training.TrainingState, plan: recipes.Plan | None):
    """What a file holds."""
    arrays = None if plan is None else {"coordinates": plan.coordinates, "points": plan.points}
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
