r"""Mixtures of Student-t distributions: priors that know of several modes and of heavy tails, and their fit to points.

A component is $\mathcal T_\nu(m, S S^\top)$, normal where $\nu = \infty$; or $m + S t$ with independent $t_i$, each of
degrees of freedom $\nu_i$ of its own. A draw is a function of standard normal noise: one number chooses the component,
32 make the chi-squared variable of up to 32 degrees of freedom, or eight one of up to eight for each axis, the rest is
as for a normal distribution. A product of such mixtures, one for each coordinate, has as many modes as there are
combinations, and is fitted one coordinate at a time.
"""

from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import normal
from dds.checks import require, typed
from dds.compiling import in_batches
from dds.types import Mixture, Noise, Normal, Prior, Product, Scalar, State

FREEDOM = 32
"""The largest finite number of degrees of freedom."""

ALONG = 8
"""The largest of an axis with tails of its own."""

HEAVIEST = (1, 2, 4, 8)
"""The degrees of freedom that a fit tries, besides more."""

_Fitted = TypeVar("_Fitted", Mixture, Product)


@typed
def of_normal(distribution: Normal, freedom: float = jnp.inf) -> Mixture:
    """One component.

    Args:
        distribution: Its centre and scale, of any kind.
        freedom: The degrees of freedom, a whole number from 1 to 32, or infinity.

    Returns:
        The mixture.

    Raises:
        ValueError: If the degrees of freedom are something else.

    Example:
        >>> of_normal(normal.standard(2)).scales.shape
        (1, 2, 2)
    """
    require(freedom in (*range(1, FREEDOM + 1), jnp.inf), "freedom", freedom, f"1 to {FREEDOM}, or infinity")
    dtype = distribution.mean.dtype
    factor = normal.factor(distribution)
    return Mixture(jnp.zeros(1, dtype), distribution.mean[None], factor[None], jnp.asarray(freedom, dtype))


@typed
def noise_size(distribution: Prior) -> int:
    """How many standard normal numbers a draw is made of.

    Args:
        distribution: The distribution.

    Returns:
        The number.

    Example:
        >>> noise_size(normal.standard(2)), noise_size(of_normal(normal.standard(2)))
        (2, 35)
    """
    if isinstance(distribution, Normal):
        return distribution.mean.size
    if isinstance(distribution, Product):
        return len(distribution.factors.means) * (2 + FREEDOM)
    dim = distribution.means.shape[1]
    return dim + 1 + (FREEDOM if distribution.freedom.ndim == 0 else dim * ALONG)


@typed
def draw(distribution: Prior, noise: Noise) -> State:
    """A draw, made of standard normal noise.

    Args:
        distribution: The distribution.
        noise: `noise_size` standard normal numbers.

    Returns:
        The draw.

    Example:
        >>> draw(of_normal(normal.standard(2)), jnp.ones(35)).tolist()
        [1.0, 1.0]
    """
    if isinstance(distribution, Normal):
        return normal.reparameterise(distribution, noise)
    if isinstance(distribution, Product):
        noise = noise.reshape(len(distribution.factors.means), -1)
        turned = jax.vmap(draw)(distribution.factors, noise)[:, 0]
        return turned if distribution.rotation is None else turned @ distribution.rotation
    log_shares, means, scales, freedom = distribution
    e, level, squares = jnp.split(noise, [means.shape[1], means.shape[1] + 1])
    bounds = jnp.cumsum(jnp.exp(log_shares))
    level = jax.scipy.special.ndtr(level[0]) * bounds[-1]
    # Of several components each draw takes a copy of its matrix.
    which = jnp.minimum(jnp.searchsorted(bounds, level, side="right"), log_shares.size - 1) if len(means) > 1 else 0
    squares = squares.reshape(*freedom.shape, -1) ** 2
    numbers = jnp.broadcast_to(jnp.arange(squares.shape[-1]), squares.shape)
    chi_squared = jnp.sum(jnp.where(numbers < freedom[..., None], squares, 0), axis=-1)
    stretch = jnp.where(freedom <= FREEDOM, jnp.sqrt(freedom / jnp.maximum(chi_squared, 1e-30)), 1)
    return means[which] + scales[which] @ (stretch * e)


@typed
def log_density(distribution: Prior, x: State) -> Scalar:
    """The log density, normalised.

    Args:
        distribution: The distribution.
        x: The point.

    Returns:
        The log density.

    Example:
        >>> (
        ...     round(
        ...         float(
        ...             log_density(of_normal(normal.standard(1), 1), jnp.zeros(1))
        ...             + jnp.log(jnp.pi)
        ...         ),
        ...         4,
        ...     )
        ...     + 0.0
        ... )
        0.0
    """
    if isinstance(distribution, Normal):
        return normal.log_density(distribution, x)
    if isinstance(distribution, Product):
        return jnp.sum(jax.vmap(log_density)(distribution.factors, turn(distribution, x)[:, None]))
    return jax.nn.logsumexp(_parts(distribution, x)[0])


@typed
def with_own_tails(mixture: Mixture, freedom: float = 2.0) -> Mixture:
    """A mixture with independent tails along the axes of each component, the columns of its scale.

    Args:
        mixture: The mixture, of normal components.
        freedom: The degrees of freedom, a whole number from 1 to 8.

    Returns:
        The mixture: in the middle of each component the density has the same curvature.

    Raises:
        ValueError: If the degrees of freedom are something else.

    Example:
        >>> own = with_own_tails(of_normal(normal.standard(2)))
        >>> own.freedom.tolist(), round(float(own.scales[0, 0, 0]) ** 2, 4)
        ([2.0, 2.0], 1.5)
    """
    require(freedom in range(1, ALONG + 1), "freedom", freedom, f"1 to {ALONG}")
    each = jnp.full(mixture.means.shape[1:], freedom, mixture.means.dtype)
    return mixture._replace(scales=np.sqrt((freedom + 1) / freedom) * mixture.scales, freedom=each)


@typed
def extend(mixture: Mixture, dim: int) -> Mixture:
    """A mixture of the first coordinates, beside independent standard ones of the others.

    Args:
        mixture: The mixture.
        dim: The dimension of the whole.

    Returns:
        The mixture of all coordinates.

    Example:
        >>> extend(of_normal(normal.standard(1)), 3).means.shape
        (1, 3)
    """
    log_shares, means, scales, freedom = mixture
    more = dim - means.shape[1]
    means = jnp.pad(means, ((0, 0), (0, more)))
    unit = jnp.diag(jnp.where(jnp.arange(dim) < dim - more, 0, 1).astype(scales.dtype))
    freedom = jnp.pad(freedom, (0, more), constant_values=jnp.inf) if freedom.ndim else freedom
    return Mixture(log_shares, means, jnp.pad(scales, ((0, 0), (0, more), (0, more))) + unit[None], freedom)


@typed
def join(mixture: Mixture, other: Mixture, share: float) -> Mixture:
    """Two mixtures as one, with the degrees of freedom of the first.

    Args:
        mixture: The first.
        other: The other.
        share: The share of the other, in (0, 1).

    Returns:
        The mixture.

    Raises:
        ValueError: If the share is not in (0, 1).

    Example:
        >>> one = of_normal(normal.standard(2))
        >>> jnp.exp(join(one, one, 0.25).log_shares).round(4).tolist()
        [0.75, 0.25]
    """
    require(0 < share < 1, "share", share, "in (0, 1)")
    log_shares = jnp.append(mixture.log_shares + np.log1p(-share), other.log_shares + np.log(share))
    means, scales = (jnp.concatenate(pair) for pair in zip(mixture[1:3], other[1:3], strict=True))
    return Mixture(log_shares.astype(means.dtype), means, scales, mixture.freedom)


@typed
def push(coordinates: Normal, mixture: Mixture) -> Mixture:
    """A mixture of points in some coordinates, as one of the user's points.

    Args:
        coordinates: The coordinates.
        mixture: The mixture in them.

    Returns:
        The mixture.

    Example:
        >>> push(
        ...     Normal(jnp.ones(2), jnp.array(3.0)), of_normal(normal.standard(2))
        ... ).means.tolist()
        [[1.0, 1.0]]
    """
    means = jax.vmap(partial(normal.reparameterise, coordinates))(mixture.means)
    return mixture._replace(means=means, scales=normal.factor(coordinates)[None] @ mixture.scales)


@typed
def pull(coordinates: Normal, mixture: Mixture) -> Mixture:
    """A mixture of the user's points in other coordinates: the inverse of `push`.

    Args:
        coordinates: The coordinates.
        mixture: The mixture.

    Returns:
        The mixture in them.

    Example:
        >>> pull(
        ...     Normal(jnp.ones(2), jnp.array(2.0)), of_normal(normal.standard(2))
        ... ).scales.tolist()
        [[[0.5, 0.0], [0.0, 0.5]]]
    """
    factor = normal.factor(coordinates)
    means = jax.vmap(partial(normal.standardise, coordinates))(mixture.means)
    scales = jax.vmap(lambda scale: jax.scipy.linalg.solve_triangular(factor, scale, lower=True))(mixture.scales)
    return mixture._replace(means=means, scales=scales)


@typed
def moments(mixture: Mixture) -> Normal:
    """The normal distribution with the mean and covariance that a mixture of normal components has.

    Args:
        mixture: The mixture; its degrees of freedom are left out of account.

    Returns:
        The distribution, with a lower Cholesky factor as scale.

    Example:
        >>> one = of_normal(normal.standard(1))
        >>> two = join(
        ...     one._replace(means=one.means - 1),
        ...     one._replace(means=one.means + 1),
        ...     0.5,
        ... )
        >>> round(float(moments(two).scale[0, 0]) ** 2, 4)
        2.0
    """
    shares = jnp.exp(mixture.log_shares)
    mean = shares @ mixture.means
    away = mixture.means - mean[None]
    within = jnp.einsum("c,cij,ckj->ik", shares, mixture.scales, mixture.scales)
    return Normal(mean, jnp.linalg.cholesky(within + (shares[None] * away.T) @ away))


@typed
def turn(product: Product, x: Float[Array, "*points dim"]) -> Float[Array, "*points dim"]:
    """The coordinates of a point, or of each of several, that are independent under a product.

    Args:
        product: The product.
        x: The point, or points.

    Returns:
        The coordinates, turned if the product has a rotation.

    Example:
        >>> quarter = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        >>> turned = product(jnp.ones((4, 2)), 2)._replace(rotation=quarter)
        >>> turn(turned, jnp.array([1.0, 2.0])).tolist()
        [2.0, -1.0]
    """
    return x if product.rotation is None else x @ product.rotation.T


@typed
def product(points: Float[Array, "points dim"], components: int = 16) -> Product:
    """A product of mixtures of normal components around the quantiles of points: where `fit` can start.

    Args:
        points: The points.
        components: The components of each mixture, at least 1.

    Returns:
        The product.

    Raises:
        ValueError: If there are no components.

    Example:
        >>> product(jnp.arange(8.0)[:, None], 2).factors.means[0, :, 0].tolist()
        [1.75, 5.25]
    """
    require(components >= 1, "components", components, "at least 1")

    def factor(column: Array) -> Mixture:
        dtype = column.dtype
        means = jnp.quantile(column, (jnp.arange(components, dtype=dtype) + 0.5) / components)[:, None]
        scales = jnp.full((components, 1, 1), 2 / components, dtype) * jnp.std(column)
        log_shares = jnp.full(components, -np.log(components), dtype)
        return Mixture(log_shares, means, scales, jnp.asarray(jnp.inf, dtype))

    return Product(jax.vmap(factor)(points.T))


@typed
def fit(
    start: _Fitted,
    points: Float[Array, "points dim"],
    weights: Float[Array, " points"],
    *,
    iterations: int = 10,
    shrinkage: float = 0.02,
    heavier: float = 0.0,
) -> _Fitted:
    r"""Fits a mixture to weighted points by the EM algorithm, for several degrees of freedom, and keeps the best.

    A product is fitted one factor at a time. Where each axis has tails of its own, the axes of the components keep
    their directions.

    Args:
        start: Where the algorithm starts: a mixture, or a product.
        points: The points.
        weights: Their weights, which sum to one.
        iterations: Its iterations, at least 1.
        shrinkage: The weight of a prior guess at each covariance, that of all points, in units of all points: it keeps
            components that have few from collapsing.
        heavier: The mean log likelihood, in nats a point, that heavier tails may cost, at least 0.

    Returns:
        The mixture, with the fewest degrees of freedom, out of 1, 2, 4, 8 and 32, that `heavier` allows.

    Raises:
        ValueError: If `iterations` is below 1.

    References:
        Peel and McLachlan (2000), Robust mixture modelling using the t distribution, section 3; Cappé, Douc, Guillin,
        Marin and Robert (2008), section 4, for weighted points; Liu and Rubin (1995), for degrees of freedom that
        change on the way.

    Example:
        >>> points = jax.random.normal(jax.random.key(0), (1000, 2)) + 3
        >>> fitted = fit(of_normal(normal.standard(2)), points, jnp.full(1000, 1e-3))
        >>> bool(jnp.allclose(fitted.means, 3.0, atol=0.2))
        True
    """
    require(iterations >= 1, "iterations", iterations, "at least 1")
    how = {"weights": weights, "shrinkage": shrinkage, "heavier": heavier}
    fit = partial(_fit, iterations, **how)
    if isinstance(start, Product):
        each = in_batches(lambda factor, column: fit(factor, column[:, None]), 32)
        return start._replace(factors=each(start.factors, turn(start, points).T))
    return fit(start, points) if start.freedom.ndim == 0 else _fit_axes(iterations, start, points, **how)


@partial(jax.jit, static_argnums=0)
def _fit(iterations: int, start: Mixture, points: Array, weights: Array, shrinkage: float, heavier: float) -> Mixture:
    dim = points.shape[1]
    centred = points - (weights @ points)[None]
    whole = (weights[None] * centred.T) @ centred

    def improve(mixture: Mixture, _):
        parts, e = jax.vmap(partial(_parts, mixture))(points)
        shares = jax.nn.softmax(parts, axis=1) * weights[:, None]
        sizes = jnp.sum(shares, axis=0) + jnp.finfo(points.dtype).tiny
        nu = mixture.freedom
        pulls = shares * _pulls(nu, jnp.sum(e**2, axis=2), dim)
        means = (pulls.T @ points) / (jnp.sum(pulls, axis=0) + jnp.finfo(points.dtype).tiny)[:, None]

        def spread(pull, size, mean):
            away = points - mean[None]
            covariance = ((pull[None] * away.T) @ away + shrinkage * whole / sizes.size) / (
                size + shrinkage / sizes.size
            )
            return jnp.linalg.cholesky(covariance)

        scales = jax.lax.map(lambda part: spread(*part), (pulls.T, sizes, means))
        usable = jnp.isfinite(scales).all(axis=(1, 2)) & (sizes > 1e-6)
        keep = usable[:, None]
        means = jnp.where(keep, means, mixture.means)
        scales = jnp.where(keep[..., None], scales, mixture.scales)
        log_shares = jax.nn.log_softmax(jnp.log(sizes))
        return Mixture(log_shares, means, scales, nu), None

    def best_of(nu: Scalar) -> tuple[Mixture, Scalar]:
        mixture, _ = jax.lax.scan(improve, start._replace(freedom=nu), None, length=iterations)
        return mixture, weights @ jax.vmap(partial(log_density, mixture))(points)

    mixtures, likelihoods = jax.lax.map(best_of, jnp.array([*HEAVIEST, FREEDOM], points.dtype))
    likelihoods = jnp.where(jnp.isnan(likelihoods), -jnp.inf, likelihoods)
    best = jnp.argmax(likelihoods >= jnp.max(likelihoods) - heavier)
    return jax.tree.map(lambda leaf: leaf[best], mixtures)


@partial(jax.jit, static_argnums=0)
def _fit_axes(
    iterations: int, start: Mixture, points: Array, weights: Array, shrinkage: float, heavier: float
) -> Mixture:
    """As `_fit`, where each axis has tails of its own: all that changes is a shift, a width and a tail for each."""
    few, tiny = shrinkage / len(start.means), jnp.finfo(points.dtype).tiny
    freedoms = jnp.array([*HEAVIEST, jnp.inf], points.dtype)

    def improve(mixture: Mixture, _):
        parts, e = jax.vmap(partial(_parts, mixture))(points)
        shares = jax.nn.softmax(parts, axis=1) * weights[:, None]
        sizes, shares = jnp.sum(shares, axis=0), shares[..., None]

        def with_tails(nu: Scalar) -> tuple[Array, Array, Array]:
            pulls = shares * _pulls(nu, e**2, 1)
            shifts = jnp.sum(pulls * e, axis=0) / (jnp.sum(pulls, axis=0) + tiny)
            squares = (e - shifts[None]) ** 2
            variances = (jnp.sum(pulls * squares, axis=0) + few) / (sizes[:, None] + few)
            likelihoods = jnp.sum(shares * _log_student(nu, squares / variances[None], 1), axis=0)
            return shifts, variances, jnp.sum(likelihoods - sizes[:, None] * jnp.log(variances) / 2, axis=0)

        *changes, likelihoods = jax.lax.map(with_tails, freedoms)
        enough = likelihoods >= jnp.max(likelihoods, axis=0)[None] - heavier / points.shape[1]
        best = jnp.argmax(enough, axis=0)
        shifts, variances = (jnp.take_along_axis(change, best[None, None], axis=0)[0] for change in changes)
        means = mixture.means + jnp.einsum("cij,cj->ci", mixture.scales, shifts)
        scales = mixture.scales * jnp.sqrt(variances)[:, None, :]
        return Mixture(jax.nn.log_softmax(jnp.log(sizes + tiny)), means, scales, freedoms[best]), None

    return jax.lax.scan(improve, start, None, length=iterations)[0]


def _pulls(nu: Array, squares: Array, dim: int) -> Array:
    """How much of a point's distance a component takes not for the tail."""
    nu = jnp.broadcast_to(nu, squares.shape)
    return jnp.where(nu <= FREEDOM, (nu + dim) / (nu + squares), 1)


def _parts(mixture: Mixture, x: State) -> tuple[Array, Array]:
    """Log shares times densities of the components, and the point as the noise of each."""
    log_shares, means, scales, nu = mixture
    e = jax.vmap(lambda mean, scale: jax.scipy.linalg.solve_triangular(scale, x - mean, lower=True))(means, scales)
    determinants = jnp.sum(jnp.log(jnp.diagonal(scales, axis1=1, axis2=2)), axis=1)
    if nu.ndim:
        return log_shares - determinants + jnp.sum(_log_student(nu, e**2, 1), axis=1), e
    return log_shares - determinants + _log_student(nu, jnp.sum(e**2, axis=1), x.size), e


def _log_student(nu: Array, squares: Array, dim: int) -> Array:
    """The log density of the standard Student-t distribution at points of these squared lengths."""
    finite = jnp.where(nu <= FREEDOM, nu, 1)
    constant = jax.scipy.special.gammaln((finite + dim) / 2) - jax.scipy.special.gammaln(finite / 2)
    constant -= dim / 2 * jnp.log(finite * jnp.pi)
    nu, finite, constant = (jnp.broadcast_to(leaf, squares.shape) for leaf in (nu, finite, constant))
    student = constant - (finite + dim) / 2 * jnp.log1p(squares / finite)
    return jnp.where(nu <= FREEDOM, student, -squares / 2 - dim / 2 * jnp.log(2 * jnp.pi))
