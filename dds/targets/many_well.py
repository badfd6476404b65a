r"""Copies of a double well: modes in the number of two to the power of the copies, whose weights are all known."""

import jax
import jax.numpy as jnp
import numpy as np

from dds.checks import require, require_shape, typed
from dds.types import KeyArray, Normal, Scalar, State, Target


@typed
def many_well(dim: int = 32) -> Target:
    r"""The many-well density: $d / 2$ independent copies of a double well in the plane.

    The density of a copy is

    $$\gamma(x_1, x_2) = \exp\bigl(-x_1^4 + 6 x_1^2 + \tfrac12 x_1 - \tfrac12 x_2^2\bigr).$$

    The coordinates are those of the first copy, then those of the second: wells are at $x_1 \approx -1.71$, with a
    probability of 0.16, and at 1.75.

    Args:
        dim: The dimension `d`, even and at least 2.

    Returns:
        The target, with $2^{d/2}$ modes: `log_z` is exact, by quadrature, and so is the sampler but for rounding and
        the interpolation of a fine table.

    Raises:
        ValueError: If `dim` is odd or below 2.

    References:
        Noé, Olsson, Köhler and Wu (2019), for the double well; Midgley et al. (2023), for its copies.

    Example:
        >>> target = many_well(32)
        >>> target.log_z is not None and round(target.log_z, 4)
        164.6957
    """
    require(dim >= 2 and dim % 2 == 0, "dim", dim, "even and at least 2")
    copies = dim // 2

    # The trapezoidal rule: exact to rounding for a smooth function that vanishes at both ends.
    grid = np.linspace(-4, 4, 16_001)
    density = np.exp(_log_well(grid))
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)]) * (grid[1] - grid[0])
    log_z = copies * (np.log(cumulative[-1]) + 0.5 * np.log(2 * np.pi))

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        return jnp.sum(_log_well(x[::2])) - 0.5 * jnp.sum(x[1::2] ** 2)

    def sample(key: KeyArray) -> State:
        level_key, noise_key = jax.random.split(key)
        level = jax.random.uniform(level_key, (copies,))
        levels, places = jnp.asarray(cumulative / cumulative[-1], level.dtype), jnp.asarray(grid, level.dtype)
        well = jnp.interp(level, levels, places)
        return jnp.stack([well, jax.random.normal(noise_key, (copies,))], axis=1).ravel()

    return Target(dim, log_density, sample, float(log_z), start=Normal(jnp.zeros(dim), jnp.array(2.0)))


def _log_well(x):
    return -(x**4) + 6 * x**2 + 0.5 * x
