r"""Points of the target found by other means than the sampler, to ask whether it goes there.

A sampler that misses a mode gives itself good marks: its paths do not see the weights that they lack. Paths noised back
from points in that mode do. So chains that know nothing of the sampler look around, and `dds.report` compares the
weights of paths from where they end with those of the sampler's own.
"""

import jax
import jax.numpy as jnp
from beartype import beartype
from jaxtyping import jaxtyped

from dds.checks import require
from dds.types import KeyArray, LogDensity, State


@jaxtyped(typechecker=beartype)
def explore(key: KeyArray, log_density: LogDensity, start: State, *, steps: int = 1000) -> State:
    r"""Where a Metropolis-adjusted Langevin chain ends that starts at a point.

    A proposal is $x' = x + \frac{h}{2} \nabla\log\gamma(x) + \sqrt h\,\epsilon$; the step size $h$ moves towards the
    acceptance rate of 0.574. The chain need not mix: it is enough that it ends where the density is as large as it is
    for typical points of the mode that it found.

    Args:
        key: The random key of the chain.
        log_density: The log density, unnormalised.
        start: Where the chain starts; a density that is not positive there stays there.
        steps: The number of steps, at least 1.

    Returns:
        The last point.

    Raises:
        ValueError: If `steps` is below 1.

    References:
        Roberts and Rosenthal (1998), for the acceptance rate; Andrieu and Thoms (2008), for its pursuit.

    Example:
        >>> end = explore(jax.random.key(0), lambda x: -jnp.sum((x - 50) ** 2), jnp.zeros(2))
        >>> bool(jnp.all(jnp.abs(end - 50) < 5))
        True
    """
    require(steps >= 1, "steps", steps, "at least 1")
    value_and_score = jax.value_and_grad(log_density)

    def log_proposal(x: State, score: State, size, other: State):
        return -jnp.sum((other - x - 0.5 * size * score) ** 2) / (2 * size)

    def step(carry, inputs):
        x, (value, score), log_size = carry
        key, i = inputs
        noise_key, accept_key = jax.random.split(key)
        size = jnp.exp(log_size)
        other = x + 0.5 * size * score + jnp.sqrt(size) * jax.random.normal(noise_key, x.shape, x.dtype)
        other_value, other_score = value_and_score(other)
        log_ratio = (
            other_value - value + log_proposal(other, other_score, size, x) - log_proposal(x, score, size, other)
        )
        ratio = jnp.where(jnp.isfinite(log_ratio), jnp.exp(jnp.minimum(log_ratio, 0)), 0.0)
        accepted = jax.random.uniform(accept_key, (), x.dtype) < ratio
        kept = jax.tree.map(
            lambda new, old: jnp.where(accepted, new, old), (other, (other_value, other_score)), (x, (value, score))
        )
        return (*kept, log_size + (ratio - 0.574) / (1 + i) ** 0.6), None

    first = (start, value_and_score(start), jnp.log(jnp.asarray(0.01, start.dtype)))
    keys = jax.random.split(key, steps)
    (end, _, _), _ = jax.lax.scan(step, first, (keys, jnp.arange(steps, dtype=start.dtype)))
    return end
