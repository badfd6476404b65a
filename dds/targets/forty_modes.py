r"""A mixture of forty normal distributions, far apart: a sampler that misses a mode shows it at once."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds.checks import require, typed
from dds.targets.gaussian import gaussian_mixture
from dds.types import Normal, Target

MODES = 40
"""The number of modes."""


@typed
def forty_modes(dim: int = 2) -> Target:
    r"""The mixture of 40 normal distributions $\mathcal N(m_j, s^2 I)$ of equal weight, with means in $[-40, 40]^d$.

    The standard deviation is $s = \log(1 + e) \approx 1.3133$, the means are those of `forty_modes_means`. Benchmarks
    in 50 dimensions have drawn other means, by generators whose numbers depend on the version of the library, and with
    $s = 1$: the distribution of the means is the same, the means are not.

    Args:
        dim: The dimension `d`, at least 1.

    Returns:
        The target: normalised, so `log_z` is 0, with an exact sampler.

    Raises:
        ValueError: If `dim` is below 1.

    References:
        Midgley et al. (2023), Flow Annealed Importance Sampling Bootstrap, for two dimensions.

    Example:
        >>> target = forty_modes()
        >>> round(float(target.log_density(jnp.zeros(2))), 4)
        -23.3163
    """
    mixture = gaussian_mixture(forty_modes_means(dim), jnp.full(MODES, np.log1p(np.e)))
    return mixture._replace(start=Normal(jnp.zeros(dim), jnp.array(25.0)))


@typed
def forty_modes_means(dim: int = 2) -> Float[Array, "40 dim"]:
    """The means of the forty modes, one uniform draw, the same for all users.

    24 bits a number from the Mersenne Twister of seed 0, row after row. In two dimensions they are the published ones,
    in others it is the same recipe.

    Args:
        dim: The dimension `d`, at least 1.

    Returns:
        The means.

    Raises:
        ValueError: If `dim` is below 1.

    Example:
        >>> [round(float(number), 3) for number in forty_modes_means()[0]]
        [-0.299, 21.458]
    """
    require(dim >= 1, "dim", dim, "at least 1")
    bits = np.random.RandomState(0).randint(0, 2**32, MODES * dim, dtype=np.uint32)
    return jnp.asarray(80 * ((bits & 0xFFFFFF) / 2**24 - 0.5).reshape(MODES, dim), float)
