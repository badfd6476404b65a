r"""Normal distributions of one point, $\mathcal N(m, S S^\top)$ with a scalar, diagonal or lower-triangular scale $S$.

Every distribution of the library is one of these: the prior, the marginals of the reference process, each step. As a
map of noise, $x = m + S \epsilon$, the same data are a choice of coordinates: `compose` joins two of them,
`standardise` inverts one, and `pull_back` takes a density to them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dds.checks import typed
from dds.types import Bijection, LogDensity, Normal, Scalar, State


@typed
def standard(dim: int) -> Normal:
    r"""$\mathcal N(0, I)$; as coordinates, those of the user.

    Args:
        dim: The dimension, at least 1.

    Returns:
        The distribution.

    Example:
        >>> standard(2).mean.tolist()
        [0.0, 0.0]
    """
    return Normal(jnp.zeros(dim), jnp.ones(()))


@typed
def reparameterise(normal: Normal, noise: State) -> State:
    r"""Turns standard normal noise into a draw, $x = m + S \epsilon$.

    Args:
        normal: The distribution.
        noise: Standard normal noise, one number per coordinate.

    Returns:
        The draw.

    Example:
        >>> reparameterise(
        ...     Normal(jnp.array([1.0, 2.0]), jnp.array(3.0)), jnp.array([0.0, 1.0])
        ... ).tolist()
        [1.0, 5.0]
    """
    triangular = jnp.ndim(normal.scale) == 2
    return normal.mean + (normal.scale @ noise if triangular else normal.scale * noise)


@typed
def standardise(normal: Normal, x: State) -> State:
    r"""The noise that gives a point, $\epsilon = S^{-1}(x - m)$: the inverse of `reparameterise`.

    Args:
        normal: The distribution.
        x: The point.

    Returns:
        The noise.

    Example:
        >>> standardise(
        ...     Normal(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])),
        ...     jnp.array([4.0, 2.0]),
        ... ).tolist()
        [1.0, 0.0]
    """
    residual = x - normal.mean
    if jnp.ndim(normal.scale) == 2:
        return jax.scipy.linalg.solve_triangular(normal.scale, residual, lower=True)
    return residual / normal.scale


@typed
def compose(outer: Normal | Bijection, inner: Normal) -> Normal | Bijection:
    r"""Two maps as one, $\epsilon \mapsto m + S (m' + S' \epsilon)$, or $T(m' + S' \epsilon)$ with a bijection.

    Args:
        outer: The map that comes last, $m$ and $S$, or $T$.
        inner: The map that comes first, $m'$ and $S'$.

    Returns:
        The map, also the distribution of `outer`'s points when `inner` is that of its noise.

    Example:
        >>> both = compose(
        ...     Normal(jnp.ones(2), jnp.array(2.0)), Normal(jnp.ones(2), jnp.array(3.0))
        ... )
        >>> both.mean.tolist(), float(both.scale)
        ([3.0, 3.0], 6.0)
    """
    if isinstance(outer, Bijection):
        first = bijection(inner)

        def forward(y: State) -> tuple[State, Scalar]:
            between, own = first.forward(y)
            x, log_determinant = outer.forward(between)
            return x, own + log_determinant

        def inverse(x: State) -> tuple[State, Scalar]:
            between, log_determinant = outer.inverse(x)
            y, own = first.inverse(between)
            return y, own + log_determinant

        return Bijection(outer.dim, forward, inverse)
    match jnp.ndim(outer.scale), jnp.ndim(inner.scale):
        case 2, 2:
            scale = outer.scale @ inner.scale
        case 1, 2:
            scale = outer.scale[:, None] * inner.scale
        case 2, 1:
            scale = outer.scale * inner.scale[None]
        case _:  # one of them is a scalar, or both are diagonals
            scale = outer.scale * inner.scale
    return Normal(reparameterise(outer, inner.mean), scale)


@typed
def factor(normal: Normal) -> Float[Array, "dim dim"]:
    """The lower Cholesky factor of the covariance, as a matrix whatever the kind of the scale.

    Args:
        normal: The distribution.

    Returns:
        The factor.

    Example:
        >>> factor(Normal(jnp.zeros(2), jnp.array(3.0))).tolist()
        [[3.0, 0.0], [0.0, 3.0]]
    """
    return normal.scale if jnp.ndim(normal.scale) == 2 else jnp.diag(_diagonal(normal))


@typed
def bijection(coordinates: Normal | Bijection) -> Bijection:
    r"""Coordinates as a bijection: $y \mapsto m + S y$ for a normal distribution.

    Args:
        coordinates: A distribution; or a bijection, which is returned as it is.

    Returns:
        The bijection.

    Example:
        >>> x, log_determinant = bijection(Normal(jnp.ones(2), jnp.array(3.0))).forward(
        ...     jnp.ones(2)
        ... )
        >>> x.tolist(), round(float(jnp.exp(log_determinant)), 4)
        ([4.0, 4.0], 9.0)
    """
    if isinstance(coordinates, Bijection):
        return coordinates

    def forward(y: State) -> tuple[State, Scalar]:
        return reparameterise(coordinates, y), log_determinant(coordinates)

    def inverse(x: State) -> tuple[State, Scalar]:
        return standardise(coordinates, x), log_determinant(coordinates)

    return Bijection(coordinates.mean.size, forward, inverse)


@typed
def pull_back(coordinates: Normal | Bijection, log_density: LogDensity) -> LogDensity:
    r"""A density in other coordinates, $\log \gamma(T(y)) + \log \lvert\det T'(y)\rvert$, with the same integral.

    Args:
        coordinates: The coordinates, $T(y) = m + S y$ or a bijection.
        log_density: The log density $\log \gamma$.

    Returns:
        The log density of $y$.

    Example:
        >>> wide = Normal(jnp.ones(2), jnp.array(3.0))
        >>> flat = pull_back(wide, lambda x: log_density(wide, x))
        >>> bool(jnp.isclose(flat(jnp.ones(2)), log_density(standard(2), jnp.ones(2))))
        True
    """

    def pulled(y: State) -> Scalar:
        x, determinant = bijection(coordinates).forward(y)
        return log_density(x) + determinant

    return pulled


@typed
def log_determinant(normal: Normal) -> Scalar:
    r"""$\log \det S$.

    Args:
        normal: The distribution.

    Returns:
        The log-determinant of the scale, half that of the covariance.

    Example:
        >>> float(log_determinant(standard(3)))
        0.0
    """
    return jnp.sum(jnp.log(_diagonal(normal)))


@typed
def log_density(normal: Normal, x: State) -> Scalar:
    r"""$\log \mathcal N(x; m, S S^\top)$, normalised.

    Args:
        normal: The distribution.
        x: The point.

    Returns:
        The log density.

    Example:
        >>> round(float(log_density(standard(1), jnp.zeros(1))), 4)
        -0.9189
    """
    noise = standardise(normal, x)
    return -0.5 * jnp.sum(noise**2) - log_determinant(normal) - 0.5 * x.size * jnp.log(2 * jnp.pi)


@typed
def log_ratio(numerator: Normal, denominator: Normal, x: State, other: State | None = None) -> Scalar:
    r"""$\log p(x) - \log q(x)$ of two normal distributions, without the loss of precision of subtracting the two.

    With $r$ and $s$ the noises that give $x$ under $p$ and $q$, it is
    $\tfrac12 \sum_i (s_i - r_i)(s_i + r_i) + \log\det S_q - \log\det S_p$: exactly zero when they are the same. With
    another point $x'$ for $q$ it is $\log p(x) - \log q(x')$, as precise where the two points are close but far out.

    Args:
        numerator: The distribution `p`.
        denominator: The distribution `q`.
        x: The point.
        other: The point of the denominator, if it is another.

    Returns:
        The log ratio.

    Example:
        >>> float(log_ratio(standard(2), standard(2), jnp.ones(2)))
        0.0
    """
    p, q = standardise(numerator, x), standardise(denominator, x if other is None else other)
    return 0.5 * jnp.sum((q - p) * (q + p)) + jnp.sum(jnp.log(_diagonal(denominator) / _diagonal(numerator)))


def _diagonal(normal: Normal) -> State:
    diagonal = jnp.diagonal(normal.scale) if jnp.ndim(normal.scale) == 2 else normal.scale
    return jnp.broadcast_to(diagonal, normal.mean.shape)
