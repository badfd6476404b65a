r"""Markov chains in the metric of the density itself: moves as long as its curvature at each point allows.

Chains that start from samples of the target stay samples of the target. So where they go, and the samples never were,
something is missing.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dds.checks import require, typed
from dds.compiling import once
from dds.smc import ACCEPTANCE
from dds.types import KeyArray, LogDensity, Scalar, State

SPREAD = 0.7
"""The standard deviation of the logarithm of step sizes: where the density bends most, only short ones are accepted."""

SINGULAR = 1e-6
"""The least curvature, as a fraction of the largest: others are rounding in 32 bits."""


@typed
def langevin(
    key: KeyArray, log_density: LogDensity, points: Float[Array, "chains dim"], *, steps: int
) -> Float[Array, "chains dim"]:
    r"""Langevin chains whose metric is the curvature of the density, without the signs of its eigenvalues.

    With $-\nabla^2 \log \gamma(x) = Q \operatorname{diag}(\lambda) Q^\top$ and
    $M(x) = Q \operatorname{diag}(\lvert \lambda \rvert)^{-1} Q^\top$, a move is proposed from

    $$ \begin{aligned} x' &\sim \mathcal N\bigl(m(x),\ h^2 M(x)\bigr), \\
       m(x) &= x + \tfrac{h^2}2 M(x) \nabla \log \gamma(x), \end{aligned} $$

    with a drift of at most two standard deviations, and accepted by Metropolis and Hastings' rule. In a curved valley a
    step is as long as it can be along it, and in a tail without a scale as long as the way to the middle. The step size
    $h$, apart from a random factor, is led to an acceptance rate of 0.574.

    Args:
        key: The random key.
        log_density: The log density, unnormalised and twice differentiable; where it is not finite no move goes.
        points: Where the chains start.
        steps: The number of steps, at least 1.

    Returns:
        Where they end.

    Raises:
        ValueError: If `steps` is below 1.

    References:
        Girolami and Calderhead (2011), section 5, the simplified algorithm; Betancourt (2013), for the absolute values.

    Example:
        >>> points = jax.random.normal(jax.random.key(0), (1000, 2))
        >>> ends = langevin(
        ...     jax.random.key(1), lambda x: -jnp.sum(x**2) / 8, points, steps=100
        ... )
        >>> 1.8 < float(jnp.std(ends)) < 2.2
        True
    """
    require(steps >= 1, "steps", steps, "at least 1")
    return _run(log_density, steps, key, points)


@partial(once, static_argnums=(0, 1))
def _run(log_density: LogDensity, steps: int, key: KeyArray, points: Array) -> Array:
    columns = jnp.eye(points.shape[1], dtype=points.dtype)

    def at(x: State) -> tuple[Scalar, State, State, Array]:
        """The log density, its score in units of the metric, these units, and their directions."""
        (value, score), linear = jax.linearize(jax.value_and_grad(log_density), x)
        hessian = jax.vmap(lambda v: linear(v)[1])(columns)
        hessian = jnp.where(jnp.isfinite(hessian).all(), (hessian + hessian.T) / 2, columns)
        curvatures, directions = jnp.linalg.eigh(hessian)
        sizes = jnp.abs(curvatures)
        sizes = jnp.maximum(sizes, SINGULAR * jnp.max(sizes) + jnp.finfo(x.dtype).tiny)
        units = 1 / jnp.sqrt(sizes)
        return value, (score @ directions) * units, units, directions

    def drift(score: State, h: Scalar) -> State:
        length = jnp.sqrt(jnp.mean(score**2))
        return h / 2 * score / jnp.maximum(1, h * length / 4)

    def step(carry, key):
        xs, there, log_h = carry
        noise_key, accept_key, size_key = jax.random.split(key, 3)
        noise = jax.random.normal(noise_key, xs.shape, xs.dtype)
        uniforms = jax.random.uniform(accept_key, xs.shape[:1], xs.dtype)
        sizes = jnp.exp(log_h + SPREAD * jax.random.normal(size_key, xs.shape[:1], xs.dtype))

        def one(x, here, e, uniform, h):
            value, score, units, directions = here
            change = drift(score, h) + e
            other = x + h * directions @ (units * change)
            found = value_there, score_there, units_there, directions_there = at(other)
            back = (x - other) @ directions_there / (h * units_there) - drift(score_there, h)
            log_rate = value_there - value + jnp.sum((e - back) * (e + back)) / 2
            log_rate += jnp.sum(jnp.log(units) - jnp.log(units_there))
            rate = jnp.where(jnp.isnan(log_rate), 0.0, jnp.exp(jnp.minimum(log_rate, 0)))
            return jax.tree.map(partial(jnp.where, uniform < rate), (other, found), (x, here)), rate

        (xs, there), rates = jax.vmap(one)(xs, there, noise, uniforms, sizes)
        return (xs, there, jnp.minimum(log_h + 0.5 * (jnp.mean(rates) - ACCEPTANCE), jnp.log(2.0))), None

    start = (points, jax.vmap(at)(points), jnp.zeros((), points.dtype))
    return jax.lax.scan(step, start, jax.random.split(key, steps))[0][0]
