"""Results in files: whole or not at all, complete, and without pickle."""

from collections.abc import Callable
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dds import estimators, evaluation, recipes, storage, training
from dds.checks import require, typed
from dds.results import Result, Tried
from dds.types import Target


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
        >>> import dds
        >>> result = dds.sample(
        ...     jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=100
        ... )
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
        "tried": [one._asdict() for one in result.tried],
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
        tuple(Tried(**one) for one in header["tried"]),
    )


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
