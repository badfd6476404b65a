r"""Neal's funnel: a normal distribution whose scale is itself random, a neck and a mouth of every width."""

import jax
import jax.numpy as jnp

from dds import normal
from dds.checks import require, require_shape, typed
from dds.types import KeyArray, Normal, Scalar, State, Target


@typed
def funnel(dim: int = 10, *, scale: float = 3.0) -> Target:
    r"""Neal's funnel, $v \sim \mathcal N(0, s^2)$ and $x_i \mid v \sim \mathcal N(0, e^v)$ for $i = 1, \dots, d - 1$.

    The first coordinate is `v`. Its other coordinates have standard deviation $e^{v/2}$: the distribution of any two
    coordinates that include `v` is the funnel in two dimensions.

    Args:
        dim: The dimension `d`, at least 2.
        scale: The standard deviation `s` of `v`, positive.

    Returns:
        The target: normalised, so `log_z` is 0, with an exact sampler.

    Raises:
        ValueError: If `dim` is below 2 or `scale` is not positive.

    References:
        Neal (2003), section 8.

    Example:
        >>> target = funnel(10)
        >>> round(float(target.log_density(jnp.zeros(10))), 4)
        -10.288
    """
    require(dim >= 2, "dim", dim, "at least 2")
    require(0 < scale < float("inf"), "scale", scale, "positive and finite")

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        v, rest = x[:1], x[1:]
        neck = normal.log_density(Normal(jnp.zeros_like(v), jnp.asarray(scale, x.dtype)), v)
        spread = -0.5 * jnp.sum(rest**2) * jnp.exp(-v[0]) - 0.5 * rest.size * (v[0] + jnp.log(2 * jnp.pi))
        return neck + spread

    def sample(key: KeyArray) -> State:
        noise = jax.random.normal(key, (dim,))
        v = scale * noise[:1]
        return jnp.concatenate([v, jnp.exp(v / 2) * noise[1:]])

    return Target(dim, log_density, sample, 0.0, start=Normal(jnp.zeros(dim), jnp.array(1.075)))
