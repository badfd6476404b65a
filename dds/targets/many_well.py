r"""Copies of a double well: modes in the number of two to the power of the copies, whose weights are all known."""

import jax
import jax.numpy as jnp
import numpy as np

from dds.checks import require, require_shape, typed
from dds.targets._table import tabulated
from dds.types import KeyArray, Normal, Scalar, State, Target

POINTS = 16_001
"""The points of the tables."""


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
    grid = np.linspace(-4, 4, POINTS)
    integral, draw = tabulated(grid, np.exp(_log_well(grid)))

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        return jnp.sum(_log_well(x[::2])) - 0.5 * jnp.sum(x[1::2] ** 2)

    def sample(key: KeyArray) -> State:
        level_key, noise_key = jax.random.split(key)
        return jnp.stack([draw(level_key, copies), jax.random.normal(noise_key, (copies,))], axis=1).ravel()

    log_z = copies * (np.log(integral) + 0.5 * np.log(2 * np.pi))
    return Target(dim, log_density, sample, float(log_z), start=Normal(jnp.zeros(dim), jnp.array(2.0)))


@typed
def double_wells(dim: int = 50, wells: int = 5, *, separation: float = 2.0) -> Target:
    r"""Symmetric double wells in some coordinates, and normal distributions in the others.

    $$\log \gamma(x) = -\sum_{i \le m} (x_i^2 - \delta)^2 - \frac12 \sum_{i > m} x_i^2.$$

    The wells are at $x_i = \pm \sqrt\delta$. This is the other many-well density of benchmarks, there with $d = m = 5$
    and $\delta = 4$, or $d = 50$, $m = 5$ and $\delta = 2$.

    Args:
        dim: The dimension `d`, at least 1.
        wells: The number `m` of coordinates with two wells, from 0 to `dim`.
        separation: The square $\delta$ of the distance of a well from zero, from 0 to 100.

    Returns:
        The target, with $2^m$ modes of equal weight: `log_z` is exact, by quadrature, and so is the sampler but for
        rounding and the interpolation of a fine table.

    Raises:
        ValueError: If a number is out of its range.

    References:
        Berner, Richter and Ullrich (2024), An optimal control perspective on diffusion-based generative modeling.

    Example:
        >>> target = double_wells(5, 5, separation=4.0)
        >>> target.log_z is not None and round(target.log_z, 4)
        -0.5411
    """
    require(dim >= 1, "dim", dim, "at least 1")
    require(0 <= wells <= dim, "wells", wells, f"from 0 to {dim}")
    require(0 <= separation <= 100, "separation", separation, "from 0 to 100")
    grid = np.linspace(-1, 1, POINTS) * (separation**0.5 + 4)
    integral, draw = tabulated(grid, np.exp(-((grid**2 - separation) ** 2)))

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        return -jnp.sum((x[:wells] ** 2 - separation) ** 2) - 0.5 * jnp.sum(x[wells:] ** 2)

    def sample(key: KeyArray) -> State:
        level_key, noise_key = jax.random.split(key)
        return jnp.concatenate([draw(level_key, wells), jax.random.normal(noise_key, (dim - wells,))])

    log_z = wells * np.log(integral) + 0.5 * (dim - wells) * np.log(2 * np.pi)
    scale = jnp.array(1.0 + separation**0.5)
    return Target(dim, log_density, sample, float(log_z), start=Normal(jnp.zeros(dim), scale))


def _log_well(x):
    return -(x**4) + 6 * x**2 + 0.5 * x
