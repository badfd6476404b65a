r"""Coordinates in which the target looks like the reference: $x = m + S z$ for a normal fit $\mathcal N(m, S S^\top)$.

A change of variables leaves $Z$ as it is, so whatever the fit, weights stay exact; a good one leaves less to learn. For
a normal target in its own coordinates nothing is left: every weight is the same.

| fit | made by | when |
|---|---|---|
| from mode and curvature | `laplace` | the density has a mode that is like its bulk; up to a few thousand dimensions |
| closest in Kullback-Leibler divergence | `variational` | also where the mode lies apart, as in hierarchical models |
| from samples | `moments` | there has been a pilot run |
| one of these, by itself | `search`, which also looks for several modes | |
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from dds import normal, smc
from dds.checks import require, typed
from dds.types import Arrays, KeyArray, LogDensity, Normal, Scalar, State

DENSE = 128
"""The dimension up to which `search` averages Hessians over draws."""

BARRIER = 2.0
"""The depth in nats from which a dip of the log density, on the way to a point, is a barrier between modes."""

BEHIND = 0.005
"""The share of tempered particles behind barriers above which `search` takes it that there are several modes."""


class Search(NamedTuple):
    """What `search` found.

    Attributes:
        coordinates: The coordinates to run a sampler in.
        fitted: Whether there is a normal fit, better than the start.
        several_modes: Whether the target seems to have several modes.
        behind: The share of tempered particles that lie behind a barrier, seen from the mean of the fit; `None` if
            modes were not looked for.
        finding: What was found, and so what the coordinates are, in a sentence.
        evaluations: The number of evaluations of the density; a Hessian counts as one for each coordinate.
    """

    coordinates: Normal
    fitted: bool
    several_modes: bool
    behind: float | None
    finding: str
    evaluations: int


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
        >>> fit = laplace(targets.gaussian(jnp.ones(2), 4 * jnp.eye(2)).log_density, jnp.zeros(2))
        >>> bool(jnp.allclose(fit.mean, 1.0, atol=1e-4)), bool(jnp.allclose(fit.scale, 2 * jnp.eye(2), atol=1e-4))
        (True, True)
    """
    require(iterations >= 1, "iterations", iterations, "at least 1")
    fit, definite, _ = _laplace(log_density, iterations, start)
    message = "not so (try `variational`, or the distribution that the sampler starts from)"
    require(bool(definite), "the negative Hessian of log_density at the mode", message, "positive definite")
    return fit


@typed
def variational(
    key: KeyArray, log_density: LogDensity, start: Normal, *, iterations: int = 400, draws: int = 64
) -> Normal:
    r"""The normal fit closest to the target in Kullback-Leibler divergence, $\max_q \mathbb E_q[\log \gamma / q]$.

    Natural-gradient steps: with $H$ and $g$ the means of the negative Hessian and of the gradient over draws, the
    precision moves from $P$ to $P + \rho G + \frac{\rho^2}{2} G P^{-1} G$, $G = H - P$, which stays positive definite,
    and the mean by $\rho P^{-1} g$. A step that lowers the bound over its own draws is not taken, and $\rho$ shrinks;
    in the second half $\rho$ falls like $1/i$, which averages the draws.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        start: The distribution to start from, with a scale of any kind.
        iterations: The number of steps, at least 1.
        draws: The number of draws in a step, an even number, for they come in opposite pairs.

    Returns:
        The fit, with a lower Cholesky factor as scale.

    Raises:
        ValueError: If `iterations` is below 1, or `draws` is below 2 or odd.

    References:
        Khan and Rue (2023), section 3.2 (variational online Newton); Lin, Schmidt and Khan (2020), for the term of
        second order.

    Example:
        >>> from dds import targets
        >>> target = targets.gaussian(jnp.ones(2), 4 * jnp.eye(2))
        >>> fit = variational(jax.random.key(0), target.log_density, Normal(jnp.zeros(2), jnp.ones(())))
        >>> bool(jnp.allclose(fit.mean, 1.0, atol=1e-3)), bool(jnp.allclose(fit.scale, 2 * jnp.eye(2), atol=1e-3))
        (True, True)
    """
    require(iterations >= 1, "iterations", iterations, "at least 1")
    require(draws >= 2 and draws % 2 == 0, "draws", draws, "even and at least 2")
    return _variational(log_density, iterations, draws, key, _with_factor(start))


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
def search(key: KeyArray, log_density: LogDensity, start: Normal) -> Search:
    r"""Coordinates found without help.

    Up to `DENSE` dimensions they are those of `variational`, and it is asked whether the target has several modes:
    whether the log density dips between the mean of the fit and the points that `dds.smc.temper` has found. Coordinates
    of one of several modes would hide the others; then, they are the mean and the standard deviations of the particles.
    In more dimensions they are those of `laplace`, and modes are not looked for. A fit must have a larger evidence
    lower bound than the start.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        start: Where to look: a distribution wide enough to reach all modes.

    Returns:
        What was found.

    Example:
        >>> from dds import targets
        >>> mixture = targets.gaussian_mixture(jnp.array([[-4.0, 0.0], [4.0, 0.0]]), jnp.ones(2))
        >>> search(jax.random.key(0), mixture.log_density, Normal(jnp.zeros(2), jnp.array(3.0))).several_modes
        True
    """
    fit_key, bound_key, particles_key = jax.random.split(key, 3)
    dim, dense = start.mean.size, start.mean.size <= DENSE
    if dense:
        fit, definite = variational(fit_key, log_density, start), True
        evaluations = 400 * 64 * (dim + 3)
    else:
        fit, definite, climbs = _laplace(log_density, 500, start.mean)
        evaluations = 2 * int(climbs) + dim
    noise = jax.random.normal(bound_key, (256, dim), start.mean.dtype)
    bounds = [float(_bound(log_density, noise, either)) for either in (fit, start)]
    evaluations += 2 * len(noise)
    if not (bool(definite) and np.isfinite(bounds[0]) and not bounds[0] < bounds[1] - 0.1):
        return Search(start, False, False, None, "no normal fit is better than the start", evaluations)
    if not dense:
        finding = f"a normal fit at the mode; above {DENSE} dimensions other modes are not looked for"
        return Search(fit, True, False, None, finding, evaluations)
    points, _, _, cost = smc.temper(particles_key, log_density, start, 1000, coordinates=fit)
    behind = float(jnp.mean(_dips(log_density, fit.mean, points) > BARRIER))
    evaluations += cost + 17 * len(points)
    if behind > BEHIND:
        spread = Normal(jnp.mean(points, axis=0), jnp.std(points, axis=0))
        finding = f"several modes: {behind:.0%} of the points lie behind barriers"
        return Search(spread, True, True, behind, finding, evaluations)
    return Search(fit, True, False, behind, "one mode, with a normal fit", evaluations)


@partial(jax.jit, static_argnums=0)
def _dips(log_density: LogDensity, centre: State, points: Float[Array, "points dim"]) -> Float[Array, " points"]:
    """How far the log density falls on the straight way from a centre to each point, below the lower of its ends.

    A centre lower than nine in ten of the points lies in a hole: it counts as one as high as the tenth of them.
    """

    def along(x: State):
        return jax.vmap(lambda t: log_density(centre + t * (x - centre)))(jnp.linspace(0, 1, 17))

    values = jax.vmap(along)(points)
    high = jnp.maximum(log_density(centre), jnp.quantile(values[:, -1], 0.1))
    return jnp.minimum(high, values[:, -1]) - jnp.min(values, axis=1)


@partial(jax.jit, static_argnums=(0, 1))
def _laplace(log_density: LogDensity, iterations: int, start: State) -> tuple[Normal, Bool[Array, ""], Int[Array, ""]]:
    def loss(x: State) -> Scalar:
        return -log_density(x)

    optimiser, value_and_grad = optax.lbfgs(), optax.value_and_grad_from_state(loss)

    def climb(carry):
        x, state, i = carry
        value, gradient = value_and_grad(x, state=state)
        change, state = optimiser.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(x, change), state, i + 1

    def unfinished(carry):
        _, state, i = carry
        gradient = optax.tree.get(state, "grad")
        return (i == 0) | (i < iterations) & (jnp.max(jnp.abs(gradient)) > 1e-5)

    mode, _, climbs = jax.lax.while_loop(unfinished, climb, (start, optimiser.init(start), 0))
    columns = jnp.eye(start.size, dtype=start.dtype)
    hessian = jax.lax.map(lambda v: jax.jvp(jax.grad(loss), (mode,), (v,))[1], columns, batch_size=64)
    factor = _factor_of_inverse((hessian + hessian.T) / 2)
    mode = mode - factor @ (factor.T @ jax.grad(loss)(mode))  # a Newton step: exact where the target is normal
    return Normal(mode, factor), jnp.all(jnp.isfinite(factor)) & jnp.all(jnp.isfinite(mode)), climbs


@partial(jax.jit, static_argnums=(0, 1, 2))
def _variational(log_density: LogDensity, iterations: int, draws: int, key: KeyArray, start: Normal) -> Normal:
    dim = start.mean.size
    score, hessian = jax.grad(log_density), jax.hessian(log_density)

    def step(carry, inputs):
        fit, rate, largest = carry[0], carry[1], inputs[1]
        half = jax.random.normal(inputs[0], (draws // 2, dim), start.mean.dtype)
        noise = jnp.concatenate([half, -half])
        points = jax.vmap(partial(normal.reparameterise, fit))(noise)
        gradient = jnp.mean(jax.vmap(score)(points), axis=0)
        curvature = -jnp.mean(jax.lax.map(hessian, points, batch_size=16), axis=0)

        # In the coordinates of the fit the precision is the identity, and so are all the steps well conditioned.
        change = fit.scale.T @ curvature @ fit.scale - jnp.eye(dim)
        precision = jnp.eye(dim) + rate * change + 0.5 * rate**2 * change @ change
        factor = fit.scale @ _factor_of_inverse((precision + precision.T) / 2)
        moved = Normal(fit.mean + rate * fit.scale @ (fit.scale.T @ gradient), factor)

        better = (
            _bound(log_density, noise, moved) >= _bound(log_density, noise, fit) - 0.1
        )  # noise of the draws is not a reason to stand still
        fit = jax.tree.map(lambda new, old: jnp.where(better, new, old), moved, fit)
        return (fit, jnp.where(better, jnp.minimum(1.5 * rate, largest), 0.25 * rate)), None

    largest = 1 / jnp.maximum(1.0, jnp.arange(iterations) - iterations // 2)
    carry = (start, jnp.asarray(0.1, start.mean.dtype))
    (fit, _), _ = jax.lax.scan(step, carry, (jax.random.split(key, iterations), largest.astype(start.mean.dtype)))
    return fit


@partial(jax.jit, static_argnums=0)
def _bound(log_density: LogDensity, noise: Float[Array, "draws dim"], fit: Normal) -> Scalar:
    """The evidence lower bound of a fit, but for a constant that is the same for all fits."""
    points = jax.vmap(partial(normal.reparameterise, fit))(noise)
    return jnp.mean(jax.vmap(log_density)(points)) + normal.log_determinant(fit)


def _with_factor(fit: Normal) -> Normal:
    if jnp.ndim(fit.scale) == 2:
        return fit
    return fit._replace(scale=jnp.diag(jnp.broadcast_to(fit.scale, fit.mean.shape)))


def _factor_of_inverse(precision: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
    """The lower Cholesky factor of the inverse, by way of the factorisation from the last coordinate to the first."""
    upper = jnp.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1]
    return jax.scipy.linalg.solve_triangular(upper.T, jnp.eye(len(precision), dtype=precision.dtype), lower=True)
