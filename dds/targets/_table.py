"""Densities on the line that are known on a fine grid: their integral, and draws from them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dds.types import KeyArray, State


def tabulated(places: np.ndarray, density: np.ndarray) -> tuple[float, Callable[[KeyArray, int], State]]:
    """The integral of a density, and its draws by the inverse of the distribution function.

    The trapezoidal rule is exact to rounding for a smooth function that vanishes at both ends.

    Args:
        places: The points of a grid of equal steps.
        density: The density there, unnormalised.

    Returns:
        The integral, and a function of a random key and a number of draws.

    Example:
        >>> places = np.linspace(-9, 9, 1001)
        >>> integral, draw = tabulated(places, np.exp(-(places**2) / 2))
        >>> round(integral, 4), draw(jax.random.key(0), 3).shape
        (2.5066, (3,))
    """
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)]) * (places[1] - places[0])

    def draw(key: KeyArray, count: int) -> State:
        level = jax.random.uniform(key, (count,))
        levels, at = jnp.asarray(cumulative / cumulative[-1], level.dtype), jnp.asarray(places, level.dtype)
        return jnp.interp(level, levels, at)

    return float(cumulative[-1]), draw
