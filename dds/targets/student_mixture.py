r"""A mixture of products of Student-t distributions: modes in many dimensions whose tails have no variance."""

import jax
import jax.numpy as jnp
import numpy as np

from dds.checks import require, require_shape, typed
from dds.types import KeyArray, Normal, Scalar, State, Target


@typed
def student_mixture(dim: int = 50, modes: int = 10) -> Target:
    r"""The mixture of products of Student-t distributions with 2 degrees of freedom and scale 1, of equal weight.

    With locations $m_j$ in $[-10, 10]^d$,

    $$\gamma(x) = \frac1J \sum_{j=1}^J \prod_{i=1}^d \bigl(2 + (x_i - m_{ji})^2\bigr)^{-3/2}.$$

    The locations are one uniform draw, the same for all users: `RandomState(0).uniform(-10, 10, (modes, dim))` of
    NumPy, which does not change. The benchmark draws its own with the generator of JAX: the distribution of the
    locations is the same, the locations are not.

    Args:
        dim: The dimension `d`, at least 1.
        modes: The number of modes `J`, at least 1.

    Returns:
        The target: normalised, so `log_z` is 0, with an exact sampler. It has no second moments.

    Raises:
        ValueError: If `dim` or `modes` is below 1.

    References:
        Blessing, Jia, Esslinger, Vargas and Neumann (2024), Beyond ELBOs.

    Example:
        >>> target = student_mixture()
        >>> round(float(target.log_density(jnp.zeros(50))), 4)
        -213.1119
    """
    require(dim >= 1, "dim", dim, "at least 1")
    require(modes >= 1, "modes", modes, "at least 1")
    locations = np.random.RandomState(0).uniform(-10, 10, (modes, dim))

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        distances = x[None, :] - jnp.asarray(locations, x.dtype)
        components = -1.5 * jnp.sum(jnp.log(2 + distances**2), axis=1)
        return jax.nn.logsumexp(components) - float(np.log(modes))

    def sample(key: KeyArray) -> State:
        mode_key, noise_key, spread_key = jax.random.split(key, 3)
        noise = jax.random.normal(noise_key, (dim,))
        # Half a chi-squared number of 2 degrees of freedom is exponential.
        spread = -jnp.log(jax.random.uniform(spread_key, (dim,), minval=jnp.finfo(noise.dtype).tiny))
        mode = jax.random.randint(mode_key, (), 0, modes)
        return jnp.asarray(locations, noise.dtype)[mode] + noise / jnp.sqrt(spread)

    return Target(dim, log_density, sample, 0.0, start=Normal(jnp.zeros(dim), jnp.array(10.0)))
