r"""Coordinates in which the target looks like the reference: $x = m + S z$ for a normal fit $\mathcal N(m, S S^\top)$.

A change of variables leaves $Z$ as it is, so whatever the fit, weights stay exact; a good one leaves less to learn. For
a normal target in its own coordinates nothing is left: every weight is the same.

| fit | made by | when |
|---|---|---|
| from mode and curvature | `laplace` | the density has a mode that is like its bulk; up to a few thousand dimensions |
| closest in Kullback-Leibler divergence | `variational` | also where the mode lies apart, as in hierarchical models |
| from samples | `moments` | there has been a pilot run |
| one of these, by itself | `dds.search` | |
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import modes, normal
from dds.checks import require, typed
from dds.compiling import in_batches, once
from dds.modes import factor_of_inverse
from dds.types import Arrays, KeyArray, LogDensity, Normal, Scalar, State

STALE = 5
"""The steps in a row without a gain after which `variational` takes it that it has arrived."""

AVERAGED = 40
"""The steps of `variational` over which draws are averaged then."""

ITERATIONS, DRAWS = 400, 64
"""The most steps of a fit, and the draws of each."""

TURNS = 200
"""The most iterations in which samples are turned to independent components."""

HESSIANS, EFFORT = 512, 5e11
"""Above `dds.modes.DENSE` dimensions a fit takes Hessians up to this dimension, where they take so many operations."""

PROBES = 64
"""The vectors by which `diagonal` asks for a curvature."""


@typed
def is_cheap(log_density: LogDensity, start: Normal) -> bool:
    """Whether some millions of evaluations are affordable: those of a fit with Hessians, or of tempered particles.

    Args:
        log_density: The log density.
        start: Where to look.

    Returns:
        Whether so: always up to `dds.modes.DENSE` dimensions, never above `HESSIANS`.

    Example:
        >>> is_cheap(lambda x: -jnp.sum(x**2), normal.standard(200))
        True
    """
    dim = start.mean.size
    most = ITERATIONS * DRAWS * (dim + 3)
    return dim <= modes.DENSE or (dim <= HESSIANS and most * modes.operations(log_density, start) <= EFFORT)


@typed
def laplace(log_density: LogDensity, start: State, *, iterations: int = 500) -> Normal:
    r"""The normal fit of mode and curvature, $\mathcal N(\hat x, H^{-1})$ with $H = -\nabla^2 \log\gamma(\hat x)$.

    Args:
        log_density: The log density, unnormalised.
        start: Where L-BFGS starts to climb.
        iterations: The most steps of L-BFGS, at least 1.

    Returns:
        The fit.

    Raises:
        ValueError: If the negative Hessian where L-BFGS ends is not positive definite, as where there is no mode.

    References:
        Tierney and Kadane (1986); L-BFGS is that of optax.

    Example:
        >>> from dds import targets
        >>> fit = laplace(
        ...     targets.gaussian(jnp.ones(2), 4 * jnp.eye(2)).log_density, jnp.zeros(2)
        ... )
        >>> (
        ...     bool(jnp.allclose(fit.mean, 1.0, atol=1e-4)),
        ...     bool(jnp.allclose(fit.scale, 2 * jnp.eye(2), atol=1e-4)),
        ... )
        (True, True)
    """
    require(iterations >= 1, "iterations", iterations, "at least 1")
    found = modes.search_from(log_density, jnp.asarray(start)[None], iterations=iterations)
    message = "not so (try `variational`, or the distribution that the sampler starts from)"
    require(len(found.points) == 1, "the negative Hessian of log_density at the mode", message, "positive definite")
    return Normal(found.points[0], found.scales[0])


@typed
def variational(
    key: KeyArray, log_density: LogDensity, start: Normal, *, iterations: int = ITERATIONS, draws: int = DRAWS
) -> Normal:
    r"""The normal fit closest to the target in Kullback-Leibler divergence, $\max_q \mathbb E_q[\log \gamma / q]$.

    Natural-gradient steps: with $H$ and $g$ the means of the negative Hessian and of the gradient over draws, the
    precision moves from $P$ to $P + \rho G + \frac{\rho^2}{2} G P^{-1} G$, $G = H - P$, which stays positive definite,
    and the mean by $\rho P^{-1} g$. A step that lowers the bound over its own draws is not taken, and $\rho$ shrinks.
    Once the bound over other draws has stopped rising, $\rho$ falls like $1/i$, which averages the draws.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        start: The distribution to start from, with a scale of any kind.
        iterations: The most steps, at least 1.
        draws: The number of draws in a step, an even number, for they come in opposite pairs.

    Returns:
        The fit, with a lower Cholesky factor as scale; the start, if nothing better was found.

    Raises:
        ValueError: If `iterations` is below 1, or `draws` is below 2 or odd.

    References:
        Khan and Rue (2023), section 3.2 (variational online Newton); Lin, Schmidt and Khan (2020), for the term of
        second order.

    Example:
        >>> from dds import targets
        >>> target = targets.gaussian(jnp.ones(2), 4 * jnp.eye(2))
        >>> fit = variational(
        ...     jax.random.key(0),
        ...     target.log_density,
        ...     Normal(jnp.zeros(2), jnp.ones(())),
        ... )
        >>> (
        ...     bool(jnp.allclose(fit.mean, 1.0, atol=1e-3)),
        ...     bool(jnp.allclose(fit.scale, 2 * jnp.eye(2), atol=1e-3)),
        ... )
        (True, True)
    """
    require(iterations >= 1, "iterations", iterations, "at least 1")
    require(draws >= 2 and draws % 2 == 0, "draws", draws, "even and at least 2")
    return fit_from(key, log_density, start, iterations=iterations, draws=draws)[0]


@typed
def diagonal(key: KeyArray, log_density: LogDensity, around: Normal, *, probes: int = PROBES) -> Normal:
    r"""A normal fit without a matrix: standard deviations from the diagonal of the Hessian at a point.

    The diagonal of $H = -\nabla^2 \log\gamma$ is the mean of $v \odot H v$ over vectors $v$ of random signs, exact for
    a diagonal matrix.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        around: The point, as its mean, such as the end of `dds.modes.climb`; and as its scale, a number or a vector,
            the standard deviations where the diagonal is not positive.
        probes: The number of vectors, at least 1.

    Returns:
        The fit, its scale a vector.

    Raises:
        ValueError: If `probes` is below 1.

    References:
        Bekas, Kokiopoulou and Saad (2007), An estimator for the diagonal of a matrix.

    Example:
        >>> scales = jnp.array([1.0, 3.0])
        >>> fit = diagonal(
        ...     jax.random.key(0),
        ...     lambda x: -0.5 * jnp.sum((x / scales) ** 2),
        ...     normal.standard(2),
        ... )
        >>> bool(jnp.allclose(fit.scale, scales))
        True
    """
    require(probes >= 1, "probes", probes, "at least 1")
    curvature = _diagonal(log_density, probes, key, around.mean)
    curved = jnp.isfinite(curvature) & (curvature > 0)
    return around._replace(scale=jnp.where(curved, jax.lax.rsqrt(jnp.where(curved, curvature, 1.0)), around.scale))


@partial(once, static_argnums=(0, 1))
def _diagonal(log_density: LogDensity, probes: int, key: KeyArray, point: State) -> State:
    signs = jax.random.rademacher(key, (probes, point.size), point.dtype)
    gradient = jax.grad(lambda x: -log_density(x))
    return jnp.mean(jax.lax.map(lambda v: v * jax.jvp(gradient, (point,), (v,))[1], signs), axis=0)


def fit_from(
    key: KeyArray, log_density: LogDensity, start: Normal, *, iterations: int = ITERATIONS, draws: int = DRAWS
) -> tuple[Normal, int]:
    """As `variational`, with the number of steps that it took.

    Args:
        key: As in `variational`.
        log_density: As in `variational`.
        start: As in `variational`.
        iterations: As in `variational`.
        draws: As in `variational`.

    Returns:
        The fit and the number.

    Example:
        >>> from dds import targets
        >>> target = targets.gaussian(jnp.ones(2), 4 * jnp.eye(2))
        >>> fit_from(jax.random.key(0), target.log_density, normal.standard(2))[1] < 100
        True
    """
    fit, taken = _variational(log_density, iterations, draws, key, start._replace(scale=normal.factor(start)))
    return fit, int(taken)


@typed
def moments(samples: Float[Arrays, "samples dim"]) -> Normal:
    """The normal distribution that has the mean and covariance of samples.

    Args:
        samples: More samples than dimensions.

    Returns:
        The fit, with a lower Cholesky factor as scale.

    Raises:
        ValueError: If there are not more samples than dimensions, or they lie in a plane.

    Example:
        >>> fit = moments(jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0], [1.0, -1.0]]))
        >>> fit.mean.tolist()
        [1.0, 0.0]
    """
    count, dim = samples.shape
    require(count > dim, "samples", f"{count} of them", f"more than the dimension, {dim}")
    fit = Normal(jnp.mean(samples, axis=0), jnp.linalg.cholesky(jnp.cov(samples, rowvar=False).reshape(dim, dim)))
    require(bool(jnp.all(jnp.isfinite(fit.scale))), "the covariance of samples", "not so", "positive definite")
    return fit


@typed
def independent(samples: Float[Arrays, "samples dim"]) -> Float[Array, "dim dim"]:
    r"""The rotation of standardised samples to components that are as independent as may be, by FastICA.

    Of all rotations $W$ it is one at which no component $y_i = w_i \cdot z$ can become less like a normal one:

    $$ \begin{aligned} w_i &\leftarrow \mathbb E[g(y_i)\, z] - \mathbb E[g'(y_i)]\, w_i, \\
       g(y) &= y\, e^{-y^2 / 2}, \end{aligned} $$

    for all of them at once, followed by the nearest rotation.

    Args:
        samples: Samples with mean zero and covariance one, as in the coordinates of `moments`.

    Returns:
        The rotation $W$, a component in each row. Of several normal components any rotation may come out.

    Raises:
        ValueError: If a sample is not finite.

    References:
        Hyvärinen (1999), Fast and robust fixed-point algorithms for independent component analysis.

    Example:
        >>> z = jax.random.laplace(jax.random.key(0), (4000, 2)) / jnp.sqrt(2)
        >>> turn = jnp.array([[0.8, -0.6], [0.6, 0.8]])
        >>> abs(independent(z @ turn.T) @ turn).max(axis=1).round(1).tolist()
        [1.0, 1.0]
    """
    z = np.asarray(samples, np.float64)
    require(bool(np.isfinite(z).all()), "samples", "some that are not", "finite")
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(z.shape[1], z.shape[1])))[0]
    for _ in range(TURNS):
        y = z @ rotation.T
        bell = np.exp(-(y**2) / 2)
        change = (y * bell).T @ z / len(z) - np.mean((1 - y**2) * bell, axis=0)[:, None] * rotation
        left, _, right = np.linalg.svd(change)
        before, rotation = rotation, left @ right
        if np.min(np.abs(np.sum(rotation * before, axis=1))) > 1 - 1e-6:
            break
    return jnp.asarray(rotation, jnp.asarray(samples).dtype)


@partial(once, static_argnums=(0, 1, 2))
def _variational(
    log_density: LogDensity, iterations: int, draws: int, key: KeyArray, start: Normal
) -> tuple[Normal, Array]:
    dim = start.mean.size
    score, hessian = jax.grad(log_density), jax.hessian(log_density)

    def step(carry):
        fit, rate, taken, stale, averaging, highest, _ = carry
        half = jax.random.normal(jax.random.fold_in(key, taken), (draws // 2, dim), start.mean.dtype)
        noise = jnp.concatenate([half, -half])
        points = jax.vmap(partial(normal.reparameterise, fit))(noise)
        gradient = _finite_mean(jax.vmap(score)(points))
        curvature = -_finite_mean(in_batches(hessian, 16)(points))

        # In the coordinates of the fit the precision is the identity, and so are all the steps well conditioned.
        change = fit.scale.T @ curvature @ fit.scale - jnp.eye(dim)
        precision = jnp.eye(dim) + rate * change + 0.5 * rate**2 * change @ change
        factor = fit.scale @ factor_of_inverse((precision + precision.T) / 2)
        moved = Normal(fit.mean + rate * fit.scale @ (fit.scale.T @ gradient), factor)

        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), moved, fit)
        of_moved, of_fit = jax.vmap(partial(_bound, log_density, noise))(both)
        better = of_moved - of_fit >= -0.1  # noise of the draws is not a reason to stand still
        fit = jax.tree.map(lambda new, old: jnp.where(better, new, old), moved, fit)
        # On its own draws a step always gains: whether it has arrived, others must say.
        value = _bound(log_density, fixed, fit)
        stale, highest = jnp.where(value < highest + 0.05, stale + 1, 0), jnp.maximum(value, highest)
        ready = (averaging > 0) | (stale >= STALE) | (taken >= iterations - averaged)
        averaging = jnp.where(ready, averaging + 1, 0)
        largest = 1 / jnp.maximum(1.0, averaging.astype(rate.dtype))
        rate = jnp.where(better, jnp.minimum(1.5 * rate, largest), 0.25 * rate)
        return fit, rate, taken + 1, stale, averaging, highest, value

    # First until the bound has stopped rising, then the draws are averaged.
    averaged = min(AVERAGED, (iterations + 1) // 2)

    def unfinished(carry):
        return (carry[2] < iterations) & (carry[4] <= averaged)

    fixed = jax.random.normal(jax.random.fold_in(key, iterations), (draws, dim), start.mean.dtype)
    zero, first = jnp.zeros((), int), _bound(log_density, fixed, start)
    lowest = jnp.asarray(-jnp.inf, start.mean.dtype)
    carry = (start, jnp.asarray(0.1, start.mean.dtype), zero, zero, zero, lowest, first)
    fit, _, taken, *_, last = jax.lax.while_loop(unfinished, step, carry)
    lost = ~(last >= first - 0.1)
    return jax.tree.map(lambda new, old: jnp.where(lost, old, new), fit, start), taken


@typed
def bound(log_density: LogDensity, noise: Float[Array, "draws dim"], fit: Normal) -> Scalar:
    r"""The evidence lower bound of a normal fit, the mean of $\log \gamma(x) / q(x)$, over given noise.

    It is exact, whatever the noise, where the target is the fit.

    Args:
        log_density: The log density.
        noise: Standard normal noise. Where the density is not finite it counts as ten below the least of the others:
            a fit that sticks out of the support is still to be compared with others.
        fit: The fit.

    Returns:
        The bound.

    Example:
        >>> plain = normal.standard(2)
        >>> noise = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> round(
        ...     float(bound(lambda x: normal.log_density(plain, x) + 3, noise, plain)),
        ...     4,
        ... )
        3.0
    """
    return _bound(log_density, noise, fit)


@partial(jax.jit, static_argnums=0)
def _bound(log_density: LogDensity, noise: Float[Array, "draws dim"], fit: Normal) -> Scalar:
    values = jax.vmap(log_density)(jax.vmap(partial(normal.reparameterise, fit))(noise))
    finite = jnp.isfinite(values)
    least = jnp.min(jnp.where(finite, values, jnp.inf)) - 10
    mean = jnp.mean(jnp.where(finite, values, least))
    of_fit = -jnp.mean(jnp.sum(noise**2, axis=1)) / 2 - noise.shape[1] / 2 * jnp.log(2 * jnp.pi)
    return jnp.where(finite.any(), mean, -jnp.inf) - of_fit + normal.log_determinant(fit)


def _finite_mean(values: Array) -> Array:
    """The mean over the draws at which all is finite: one that overflows is not a reason to stop."""
    finite = jnp.isfinite(values).all(axis=tuple(range(1, values.ndim)), keepdims=True)
    return jnp.sum(jnp.where(finite, values, 0), axis=0) / jnp.maximum(jnp.sum(finite), 1)
