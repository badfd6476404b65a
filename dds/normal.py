r"""Normal laws of one point: $\mathcal N(m, S S^\top)$ with a scalar, diagonal or lower-triangular scale $S$.

Every law of the library is one of these: the prior, a step of the forward process, a denoising step.
"""

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import Array, Float, jaxtyped

from dds.types import KeyArray, Normal, Scalar, State


@jaxtyped(typechecker=beartype)
def path_noise(key: KeyArray, count: int, like: State) -> Float[Array, "count dim"]:
    """Standard normal noise for all points of a path, in one draw.

    Args:
        key: The random key.
        count: The number of points.
        like: A point, for its dimension and type.

    Returns:
        The noise, one row a point.

    Example:
        >>> path_noise(jax.random.key(0), 5, jnp.zeros(2)).shape
        (5, 2)
    """
    # The long axis last: XLA's CPU code for the generator runs along it in vector instructions, and compiles faster.
    return jax.random.normal(key, (like.size, count), like.dtype).T


@jaxtyped(typechecker=beartype)
def reparameterise(normal: Normal, noise: State) -> State:
    r"""Turns standard normal noise into a draw, $x = m + S \epsilon$.

    Args:
        normal: The law.
        noise: Standard normal noise, one number a coordinate.

    Returns:
        The draw.

    Example:
        >>> law = Normal(jnp.array([1.0, 2.0]), jnp.array(3.0))
        >>> reparameterise(law, jnp.array([0.0, 1.0])).tolist()
        [1.0, 5.0]
    """
    triangular = jnp.ndim(normal.scale) == 2
    return normal.mean + (normal.scale @ noise if triangular else normal.scale * noise)


@jaxtyped(typechecker=beartype)
def standardise(normal: Normal, x: State) -> State:
    r"""The noise that gives a point, $\epsilon = S^{-1}(x - m)$: the inverse of `reparameterise`.

    Args:
        normal: The law.
        x: The point.

    Returns:
        The noise.

    Example:
        >>> law = Normal(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
        >>> standardise(law, jnp.array([4.0, 2.0])).tolist()
        [1.0, 0.0]
    """
    residual = x - normal.mean
    if jnp.ndim(normal.scale) == 2:
        return jax.scipy.linalg.solve_triangular(normal.scale, residual, lower=True)
    return residual / normal.scale


@jaxtyped(typechecker=beartype)
def log_determinant(normal: Normal) -> Scalar:
    r"""$\log \det S$.

    Args:
        normal: The law.

    Returns:
        The log-determinant of the scale, half that of the covariance.

    Example:
        >>> float(log_determinant(Normal(jnp.zeros(3), jnp.array(1.0))))
        0.0
    """
    return jnp.sum(jnp.log(_diagonal(normal)))


@jaxtyped(typechecker=beartype)
def log_density(normal: Normal, x: State) -> Scalar:
    r"""$\log \mathcal N(x; m, S S^\top)$, normalised.

    Args:
        normal: The law.
        x: The point.

    Returns:
        The log density.

    Example:
        >>> round(float(log_density(Normal(jnp.zeros(1), jnp.array(1.0)), jnp.zeros(1))), 4)
        -0.9189
    """
    noise = standardise(normal, x)
    return -0.5 * jnp.sum(noise**2) - log_determinant(normal) - 0.5 * x.size * jnp.log(2 * jnp.pi)


@jaxtyped(typechecker=beartype)
def log_ratio(numerator: Normal, denominator: Normal, x: State) -> Scalar:
    r"""$\log p(x) - \log q(x)$ of two normal laws, without the loss of precision of subtracting the two.

    With $r$ and $s$ the noises that give $x$ under $p$ and $q$, it is
    $\tfrac12 \sum_i (s_i - r_i)(s_i + r_i) + \log\det S_q - \log\det S_p$: exactly zero when the laws are the same.

    Args:
        numerator: The law `p`.
        denominator: The law `q`.
        x: The point.

    Returns:
        The log ratio.

    Example:
        >>> law = Normal(jnp.zeros(2), jnp.array(2.0))
        >>> float(log_ratio(law, law, jnp.ones(2)))
        0.0
    """
    p, q = standardise(numerator, x), standardise(denominator, x)
    return 0.5 * jnp.sum((q - p) * (q + p)) + jnp.sum(jnp.log(_diagonal(denominator) / _diagonal(numerator)))


def _diagonal(normal: Normal) -> State:
    diagonal = jnp.diagonal(normal.scale) if jnp.ndim(normal.scale) == 2 else normal.scale
    return jnp.broadcast_to(diagonal, normal.mean.shape)
