"""A target of your own, checked before anything is spent on it."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dds import normal
from dds.checks import require, require_scalar, typed
from dds.types import KeyArray, LogDensity, Normal, Scalar, State, Target

POINTS = 64
"""The number of points at which a density is tried."""

MORE = 2**14
"""The number of points at which it is tried where it is zero at all of these: few hit a small support."""


@typed
def from_log_density(log_density: Callable[[Any], Any], like: Any, *, scale: float = 1.0) -> Target:
    r"""Makes a target of any unnormalised log density that JAX can differentiate, or says plainly what is wrong.

    The density is tried at points drawn from $\mathcal N(0, s^2 I)$, where it is looked for.

    Args:
        log_density: The log density, from a point to a scalar.
        like: The dimension of a point, at least 1; or an example PyTree of floating-point parameters, if the density is
            one of such a tree.
        scale: The standard deviation `s`, positive: wide enough to reach all modes.

    Returns:
        The target; nothing is known of its samples and its `log_z`.

    Raises:
        ValueError: If the density fails at a point of this kind; if its value is not a floating-point scalar, is
            NaN or +infinity at some point or -infinity at all; if JAX cannot differentiate it, or its gradient is not
            finite or vanishes everywhere, in all coordinates or in one.

    Example:
        >>> from_log_density(lambda x: -jnp.sum(x**2), 3).dim
        3
        >>> from_log_density(
        ...     lambda tree: -(tree["a"] ** 2) - tree["b"] @ tree["b"],
        ...     {"a": 0.0, "b": jnp.zeros(2)},
        ... ).dim
        3
        >>> from_log_density(lambda x: -(x**2), 3)
        Traceback (most recent call last):
        ValueError: the value of log_density must be a floating-point scalar, got float32[3].
    """
    dim, structure = _flatten(like)
    flat_log_density = log_density if structure is None else lambda x: log_density(structure(x))
    require(0 < scale < float("inf"), "scale", scale, "positive and finite")
    start = Normal(jnp.zeros(dim), jnp.asarray(float(scale)))
    _try(flat_log_density, start)
    return Target(dim, flat_log_density, start=start, structure=structure)


@typed
def from_prior(
    log_prior: Callable[[Any], Any],
    log_likelihood: Callable[[Any], Any],
    like: Any,
    *,
    sample_prior: Callable[[KeyArray], Any] | None = None,
    scale: float = 1.0,
) -> Target:
    r"""The posterior of a prior and a likelihood, $\gamma = p(\theta)\, p(y \mid \theta)$: its $Z$ is the evidence.

    Args:
        log_prior: The log density of the prior, normalised if $Z$ is to be the evidence.
        log_likelihood: The log likelihood of the parameters.
        like: As in `from_log_density`.
        sample_prior: `key -> parameters`, a sampler of the prior: the posterior is then looked for where the prior's
            draws are.
        scale: As in `from_log_density`, where there is no `sample_prior`.

    Returns:
        The target.

    Raises:
        ValueError: As in `from_log_density`, or if the draws of the prior are not like the parameters or not finite.

    Example:
        >>> target = from_prior(
        ...     lambda x: -x @ x / 200,
        ...     lambda x: -(x - 3) @ (x - 3),
        ...     2,
        ...     sample_prior=lambda key: 10 * jax.random.normal(key, (2,)),
        ... )
        >>> 5 < float(target.start.scale[0]) < 15
        True
    """

    def log_density(parameters: Any) -> Any:
        return log_prior(parameters) + log_likelihood(parameters)

    if sample_prior is None:
        return from_log_density(log_density, like, scale=scale)
    dim, structure = _flatten(like)
    draws = jax.vmap(lambda key: ravel_pytree(sample_prior(key))[0])(jax.random.split(jax.random.key(0), 1000))
    require(draws.shape == (1000, dim), "a draw of sample_prior", f"of {draws.shape[1]} numbers", f"of {dim} numbers")
    require(bool(jnp.isfinite(draws).all()), "draws of sample_prior", "not so", "finite")
    start = Normal(jnp.mean(draws, axis=0), jnp.std(draws, axis=0))
    flat_log_density = log_density if structure is None else lambda x: log_density(structure(x))
    _try(flat_log_density, start)
    return Target(dim, flat_log_density, start=start, structure=structure)


@typed
def from_numpyro(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Target:
    """The posterior of a NumPyro model on unconstrained parameters; its `Z` is the evidence.

    Needs the package numpyro.

    Args:
        model: The model.
        *args: Its arguments, data included.
        **kwargs: Its keyword arguments.

    Returns:
        The target; samples come back constrained, by the name of their site, deterministic sites included.

    Raises:
        ValueError: As in `from_log_density`.
        ModuleNotFoundError: If numpyro is not installed.

    Example:
        >>> import numpyro
        >>> from numpyro import distributions as dist
        >>> def model():
        ...     numpyro.sample("scale", dist.HalfNormal(1.0))
        >>> bool(from_numpyro(model).structure(jnp.zeros(1))["scale"] == 1)
        True
    """
    try:
        from numpyro.infer.util import initialize_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install numpyro brings it.", name=error.name) from error
    info = initialize_model(jax.random.key(0), model, model_args=args, model_kwargs=kwargs)
    flat, unravel = ravel_pytree(info.param_info.z)

    def log_density(x: State) -> Scalar:
        return -info.potential_fn(unravel(x))

    return from_log_density(log_density, flat.size)._replace(structure=lambda x: info.postprocess_fn(unravel(x)))


def _flatten(like: Any) -> tuple[int, Callable[[State], Any] | None]:
    """The dimension of a point, and the way from it to parameters like an example, if these are not the point."""
    if isinstance(like, int | np.integer) and not isinstance(like, bool):
        require(bool(like >= 1), "like", like, "a dimension of at least 1, or an example PyTree of parameters")
        return int(like), None
    leaves = jax.tree.leaves(like)
    floating = bool(leaves) and all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves)
    require(floating, "like", like, "a dimension, or an example PyTree of floating-point parameters")
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, like))
    return flat.size, unravel


def _try(log_density: LogDensity, start: Normal) -> None:
    dim = start.mean.size
    noise = jax.random.normal(jax.random.key(0), (POINTS, dim))
    x = jax.vmap(lambda e: normal.reparameterise(start, e))(noise)
    value = _attempt("evaluated", lambda: jax.eval_shape(log_density, x[0]), dim)
    require_scalar(value, "log_density")
    _attempt("differentiated", lambda: jax.eval_shape(jax.grad(log_density), x[0]), dim)

    values, gradients = map(np.asarray, jax.jit(jax.vmap(jax.value_and_grad(log_density)))(x))
    for name, bad in (("NaN", np.isnan(values)), ("+infinity", np.isposinf(values))):
        where = f"one of them x = {x[np.argmax(bad)]}; where the density is 0, return -infinity"
        require(not bad.any(), "log_density", f"{name} at {bad.sum()} of {POINTS} points, {where}", "below infinity")
    inside = np.isfinite(values)
    where = f"-infinity at all of {POINTS + MORE} points drawn from where it is looked for"
    require(
        bool(inside.any()) or _is_finite_somewhere(log_density, start),
        "log_density",
        where,
        "finite where the sampler starts: shift or rescale it, or change its scale",
    )
    steep = inside & ~np.isfinite(gradients).all(axis=1)
    came = f"one that is not at {steep.sum()} of {POINTS} points, one of them x = {x[np.argmax(steep)]}"
    rare = steep.sum() <= inside.sum() / 2
    require(bool(rare), "the gradient of log_density", came, "finite wherever its value is")
    if steep.any():
        warnings.warn(f"the gradient of log_density must be finite, got {came}: there it counts as zero.", stacklevel=3)
    flat = ~gradients.any(axis=0) & inside.all()
    where = "all coordinates" if flat.all() else f"coordinate {np.argmax(flat)}"
    came = f"zero at all of {POINTS} points in {where}"
    require(
        not flat.any(), "the gradient of log_density", came, "other than zero: does it round, compare or stop gradients"
    )


def _is_finite_somewhere(log_density: LogDensity, start: Normal) -> bool:
    def value(e: State) -> Scalar:
        return log_density(normal.reparameterise(start, e))

    noise = jax.random.normal(jax.random.key(1), (MORE, start.mean.size))
    return bool(jnp.isfinite(jax.jit(lambda noise: jax.lax.map(value, noise, batch_size=1024))(noise)).any())


def _attempt(what: str, compute, dim: int):
    try:
        return compute()
    except Exception as error:  # the user's code can raise anything
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        message = f"log_density cannot be {what} at a point of shape ({dim},): {type(error).__name__}: {first_line}"
        raise ValueError(message) from error
