r"""Coordinates in which the target looks like the reference: $x = m + S z$ for a normal law $\mathcal N(m, S S^\top)$.

A change of variables leaves $Z$ as it is, so whatever the law, weights stay exact; a good one leaves less to learn. For
a normal target whitened by itself nothing is left: every weight is the same.

| law | made by | when |
|---|---|---|
| from mode and curvature | `laplace` | the density has a mode that is like its bulk; up to a few thousand dimensions |
| closest in Kullback-Leibler divergence | `variational` | also where the mode lies apart, as in hierarchical models |
| from samples | `moments` | there has been a pilot run |
| one of these, by itself | `automatic` | |
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from beartype import beartype
from jaxtyping import Array, Bool, Float, jaxtyped

from dds import exploration, normal
from dds.checks import require
from dds.types import KeyArray, LogDensity, Normal, Scalar, State, Target

DENSE = 128
"""The dimension up to which `automatic` averages Hessians over draws."""

BARRIER = 2.0
"""The depth in nats from which a dip of the log density, on the way to a point, is a barrier between modes."""

BEHIND = 0.005
"""The share of a population behind barriers above which `automatic` takes it that there are several modes."""


@jaxtyped(typechecker=beartype)
def whiten(target: Target, law: Normal) -> Target:
    r"""The target in the coordinates $z$ of a law, $\log \gamma(m + S z) + \log\det S$.

    Args:
        target: The target.
        law: The law; `dds.normal.reparameterise` leads from `z` back to `x`.

    Returns:
        The target of `z`, with the same `log_z` and, where there is one, its exact sampler.

    Example:
        >>> from dds import targets
        >>> target = whiten(targets.gaussian(jnp.ones(2), 4 * jnp.eye(2)), Normal(jnp.ones(2), jnp.array(2.0)))
        >>> float(target.log_density(jnp.zeros(2))) == float(normal.log_density(Normal(jnp.zeros(2), jnp.ones(())),
        ...                                                                     jnp.zeros(2)))
        True
    """
    sample = target.sample

    def log_density(z: State) -> Scalar:
        return target.log_density(normal.reparameterise(law, z)) + normal.log_determinant(law)

    def whitened_sample(key: KeyArray) -> State:
        assert sample is not None
        return normal.standardise(law, sample(key))

    return target._replace(log_density=log_density, sample=sample and whitened_sample)


@jaxtyped(typechecker=beartype)
def laplace(log_density: LogDensity, start: State, *, iterations: int = 500) -> Normal:
    r"""The law of mode and curvature, $\mathcal N(\hat x, H^{-1})$ with $H = -\nabla^2 \log\gamma(\hat x)$.

    Args:
        log_density: The log density, unnormalised.
        start: Where L-BFGS starts to climb.
        iterations: The most steps of L-BFGS, at least 1.

    Returns:
        The law.

    Raises:
        ValueError: If the negative Hessian where L-BFGS ends is not positive definite, as where there is no mode.

    References:
        Tierney and Kadane (1986); L-BFGS is that of optax.

    Example:
        >>> from dds import targets
        >>> law = laplace(targets.gaussian(jnp.ones(2), 4 * jnp.eye(2)).log_density, jnp.zeros(2))
        >>> bool(jnp.allclose(law.mean, 1.0, atol=1e-4)), bool(jnp.allclose(law.scale, 2 * jnp.eye(2), atol=1e-4))
        (True, True)
    """
    require(iterations >= 1, "iterations", iterations, "at least 1")
    law, definite = _laplace(log_density, iterations, start)
    message = "not so (try `variational`, or the law that the sampler starts from)"
    require(bool(definite), "the negative Hessian of log_density at the mode", message, "positive definite")
    return law


@jaxtyped(typechecker=beartype)
def variational(
    key: KeyArray, log_density: LogDensity, start: Normal, *, iterations: int = 400, draws: int = 64
) -> Normal:
    r"""The normal law closest to the target in Kullback-Leibler divergence, $\max_q \mathbb E_q[\log \gamma / q]$.

    Natural-gradient steps: with $H$ and $g$ the means of the negative Hessian and of the gradient over draws, the
    precision moves from $P$ to $P + \rho G + \frac{\rho^2}{2} G P^{-1} G$, $G = H - P$, which stays positive definite,
    and the mean by $\rho P^{-1} g$. A step that lowers the bound over its own draws is not taken, and $\rho$ shrinks;
    in the second half $\rho$ falls like $1/i$, which averages the draws.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        start: The law to start from, with a scale of any kind.
        iterations: The number of steps, at least 1.
        draws: The number of draws in a step, an even number, for they come in opposite pairs.

    Returns:
        The law, with a lower Cholesky factor as scale.

    Raises:
        ValueError: If `iterations` is below 1, or `draws` is below 2 or odd.

    References:
        Khan and Rue (2023), section 3.2 (variational online Newton); Lin, Schmidt and Khan (2020), for the term of
        second order.

    Example:
        >>> from dds import targets
        >>> target = targets.gaussian(jnp.ones(2), 4 * jnp.eye(2))
        >>> law = variational(jax.random.key(0), target.log_density, Normal(jnp.zeros(2), jnp.ones(())))
        >>> bool(jnp.allclose(law.mean, 1.0, atol=1e-3)), bool(jnp.allclose(law.scale, 2 * jnp.eye(2), atol=1e-3))
        (True, True)
    """
    require(iterations >= 1, "iterations", iterations, "at least 1")
    require(draws >= 2 and draws % 2 == 0, "draws", draws, "even and at least 2")
    return _variational(log_density, iterations, draws, key, _with_factor(start))


@jaxtyped(typechecker=beartype)
def moments(samples: Float[Array, "samples dim"]) -> Normal:
    """The law that has the mean and covariance of samples.

    Args:
        samples: More samples than dimensions.

    Returns:
        The law, with a lower Cholesky factor as scale.

    Raises:
        ValueError: If there are not more samples than dimensions, or they lie in a plane.

    Example:
        >>> law = moments(jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0], [1.0, -1.0]]))
        >>> law.mean.tolist()
        [1.0, 0.0]
    """
    count, dim = samples.shape
    require(count > dim, "samples", f"{count} of them", f"more than the dimension, {dim}")
    law = Normal(jnp.mean(samples, axis=0), jnp.linalg.cholesky(jnp.cov(samples, rowvar=False).reshape(dim, dim)))
    require(bool(jnp.all(jnp.isfinite(law.scale))), "the covariance of samples", "not so", "positive definite")
    return law


@jaxtyped(typechecker=beartype)
def automatic(key: KeyArray, log_density: LogDensity, start: Normal) -> Normal:
    r"""A law to whiten by, found without help; the start itself where none is better.

    Up to `DENSE` dimensions it is that of `variational`, if the target seems to have one mode: between its mean and the
    points of a population that `dds.exploration.temper` has found, the log density does not dip. Whitening by one of
    several modes would hide the others, so the start is returned. In more dimensions it is that of `laplace`, and modes
    are not looked for. It must have a larger evidence lower bound than the start.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        start: The law that the sampler would start from.

    Returns:
        The law.

    Example:
        >>> from dds import targets
        >>> start = Normal(jnp.zeros(2), jnp.array(3.0))
        >>> mixture = targets.gaussian_mixture(jnp.array([[-4.0, 0.0], [4.0, 0.0]]), jnp.ones(2))
        >>> automatic(jax.random.key(0), mixture.log_density, start) is start
        True
    """
    law_key, bound_key, population_key = jax.random.split(key, 3)
    dense = start.mean.size <= DENSE
    if dense:
        law, definite = variational(law_key, log_density, start), True
    else:
        law, definite = _laplace(log_density, 500, start.mean)
    noise = jax.random.normal(bound_key, (256, start.mean.size), start.mean.dtype)
    bounds = [float(_bound(log_density, noise, law)) for law in (law, start)]
    if not (definite and np.isfinite(bounds[0])) or bounds[0] <= bounds[1]:
        return start
    if dense:
        population = exploration.temper(population_key, log_density, start, 1000, coordinates=law)
        if float(jnp.mean(_dips(log_density, law.mean, population) > BARRIER)) > BEHIND:
            return start
    return law


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
def _laplace(log_density: LogDensity, iterations: int, start: State) -> tuple[Normal, Bool[Array, ""]]:
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

    mode, _, _ = jax.lax.while_loop(unfinished, climb, (start, optimiser.init(start), 0))
    columns = jnp.eye(start.size, dtype=start.dtype)
    hessian = jax.lax.map(lambda v: jax.jvp(jax.grad(loss), (mode,), (v,))[1], columns, batch_size=64)
    factor = _factor_of_inverse((hessian + hessian.T) / 2)
    mode = mode - factor @ (factor.T @ jax.grad(loss)(mode))  # a Newton step: exact where the law is
    return Normal(mode, factor), jnp.all(jnp.isfinite(factor)) & jnp.all(jnp.isfinite(mode))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _variational(log_density: LogDensity, iterations: int, draws: int, key: KeyArray, start: Normal) -> Normal:
    dim = start.mean.size
    score, hessian = jax.grad(log_density), jax.hessian(log_density)

    def step(carry, inputs):
        law, rate, largest = carry[0], carry[1], inputs[1]
        half = jax.random.normal(inputs[0], (draws // 2, dim), start.mean.dtype)
        noise = jnp.concatenate([half, -half])
        points = jax.vmap(partial(normal.reparameterise, law))(noise)
        gradient = jnp.mean(jax.vmap(score)(points), axis=0)
        curvature = -jnp.mean(jax.lax.map(hessian, points, batch_size=16), axis=0)

        # In the coordinates of the law the precision is the identity, and so are all the steps well conditioned.
        change = law.scale.T @ curvature @ law.scale - jnp.eye(dim)
        precision = jnp.eye(dim) + rate * change + 0.5 * rate**2 * change @ change
        factor = law.scale @ _factor_of_inverse((precision + precision.T) / 2)
        moved = Normal(law.mean + rate * law.scale @ (law.scale.T @ gradient), factor)

        better = (
            _bound(log_density, noise, moved) >= _bound(log_density, noise, law) - 0.1
        )  # noise of the draws is not a reason to stand still
        law = jax.tree.map(lambda new, old: jnp.where(better, new, old), moved, law)
        return (law, jnp.where(better, jnp.minimum(1.5 * rate, largest), 0.25 * rate)), None

    largest = 1 / jnp.maximum(1.0, jnp.arange(iterations) - iterations // 2)
    carry = (start, jnp.asarray(0.1, start.mean.dtype))
    (law, _), _ = jax.lax.scan(step, carry, (jax.random.split(key, iterations), largest.astype(start.mean.dtype)))
    return law


@partial(jax.jit, static_argnums=0)
def _bound(log_density: LogDensity, noise: Float[Array, "draws dim"], law: Normal) -> Scalar:
    """The evidence lower bound of a law, but for a constant that is the same for all laws."""
    points = jax.vmap(partial(normal.reparameterise, law))(noise)
    return jnp.mean(jax.vmap(log_density)(points)) + normal.log_determinant(law)


def _with_factor(law: Normal) -> Normal:
    if jnp.ndim(law.scale) == 2:
        return law
    return law._replace(scale=jnp.diag(jnp.broadcast_to(law.scale, law.mean.shape)))


def _factor_of_inverse(precision: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
    """The lower Cholesky factor of the inverse, by way of the factorisation from the last coordinate to the first."""
    upper = jnp.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1]
    return jax.scipy.linalg.solve_triangular(upper.T, jnp.eye(len(precision), dtype=precision.dtype), lower=True)
