"""A target of your own, checked before anything is spent on it."""

import jax
import numpy as np
from beartype import beartype
from jaxtyping import jaxtyped

from dds.checks import require, require_scalar
from dds.types import LogDensity, Target

POINTS = 64
"""The number of points at which a density is tried."""


@jaxtyped(typechecker=beartype)
def from_log_density(log_density: LogDensity, dim: int, *, scale: float = 1.0) -> Target:
    r"""Makes a target of any unnormalised log density that JAX can differentiate, or says plainly what is wrong.

    The density is tried at points drawn from $\mathcal N(0, s^2 I)$, where a sampler with that prior starts.

    Args:
        log_density: The log density, from a point of shape `(dim,)` to a scalar.
        dim: The dimension, at least 1.
        scale: The standard deviation `s` of the points, positive.

    Returns:
        The target; nothing is known of its samples and its `log_z`.

    Raises:
        ValueError: If the density fails at a point of this dimension; if its value is not a floating-point scalar, is
            NaN or +infinity at some point or -infinity at all; if JAX cannot differentiate it, or its gradient is not
            finite or vanishes everywhere.

    Example:
        >>> import jax.numpy as jnp
        >>> from_log_density(lambda x: -jnp.sum(x**2), 3).dim
        3
        >>> from_log_density(lambda x: -(x**2), 3)
        Traceback (most recent call last):
        ValueError: the value of log_density must be a floating-point scalar, got float32[3].
    """
    require(dim >= 1, "dim", dim, "at least 1")
    require(0 < scale < float("inf"), "scale", scale, "positive and finite")

    x = scale * jax.random.normal(jax.random.key(0), (POINTS, dim))
    value = _attempt("evaluated", lambda: jax.eval_shape(log_density, x[0]), dim)
    require_scalar(value, "log_density")
    _attempt("differentiated", lambda: jax.eval_shape(jax.grad(log_density), x[0]), dim)

    values, gradients = map(np.asarray, jax.jit(jax.vmap(jax.value_and_grad(log_density)))(x))
    for name, bad in (("NaN", np.isnan(values)), ("+infinity", np.isposinf(values))):
        where = x[np.argmax(bad)]
        require(
            not bad.any(),
            "log_density",
            f"{name} at {bad.sum()} of {POINTS} points, one of them x = {where}",
            "below infinity",
        )
    inside = np.isfinite(values)
    where = f"-infinity at all of {POINTS} points drawn from N(0, {scale}^2 I)"
    require(
        bool(inside.any()),
        "log_density",
        where,
        "finite where the sampler starts: shift or rescale it, or change its scale",
    )
    steep = inside & ~np.isfinite(gradients).all(axis=1)
    came = f"one that is not at {steep.sum()} of {POINTS} points, one of them x = {x[np.argmax(steep)]}"
    require(not steep.any(), "the gradient of log_density", came, "finite wherever its value is")
    flat = not gradients[inside].any() and np.ptp(values[inside]) > 0
    came = f"zero at all of {POINTS} points, though the values differ"
    require(not flat, "the gradient of log_density", came, "other than zero: does it round, compare or stop gradients")
    return Target(dim, log_density)


def _attempt(what: str, compute, dim: int):
    try:
        return compute()
    except Exception as error:  # the user's code can raise anything
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        message = f"log_density cannot be {what} at a point of shape ({dim},): {type(error).__name__}: {first_line}"
        raise ValueError(message) from error
