"""Normal distributions and mixtures of them: targets for which everything is known."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import normal
from dds.checks import require, require_shape, require_values, typed
from dds.types import KeyArray, Normal, Scalar, State, Target


@typed
def gaussian(mean: State, covariance: Float[Array, "dim dim"]) -> Target:
    r"""The normal distribution $\mathcal N(m, C)$.

    Args:
        mean: The mean `m`.
        covariance: The covariance `C`, symmetric and positive definite.

    Returns:
        The target: normalised, so `log_z` is 0, with an exact sampler.

    Raises:
        ValueError: If the covariance is not symmetric and positive definite.

    Example:
        >>> target = gaussian(jnp.zeros(2), jnp.eye(2))
        >>> round(float(target.log_density(jnp.zeros(2))), 4)
        -1.8379
    """
    symmetric = bool(np.allclose(covariance, covariance.T, rtol=1e-5))
    distribution = Normal(mean, jnp.linalg.cholesky(covariance))
    definite = bool(jnp.all(jnp.isfinite(distribution.scale)))
    require(symmetric and definite, "covariance", covariance, "symmetric and positive definite")
    dim = mean.size

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        return normal.log_density(distribution, x)

    def sample(key: KeyArray) -> State:
        return normal.reparameterise(distribution, jax.random.normal(key, (dim,), mean.dtype))

    return Target(dim, log_density, sample, 0.0)


@typed
def gaussian_mixture(
    means: Float[Array, "modes dim"],
    scales: Float[Array, " modes"] | Float[Array, "modes dim"] | Float[Array, "modes dim dim"],
    weights: Float[Array, " modes"] | None = None,
) -> Target:
    r"""The mixture $\sum_j p_j\,\mathcal N(m_j, S_j S_j^\top)$.

    Args:
        means: The mean of each mode.
        scales: The standard deviation of each mode, for all coordinates or for each, or its lower Cholesky factor.
        weights: The weight of each mode, positive; only their proportions matter. Equal by default.

    Returns:
        The target: normalised, so `log_z` is 0, with an exact sampler.

    Raises:
        ValueError: If a standard deviation, a diagonal entry of a factor or a weight is not positive.

    Example:
        >>> target = gaussian_mixture(jnp.array([[-3.0], [3.0]]), jnp.array([1.0, 1.0]))
        >>> round(float(target.log_density(jnp.array([3.0]))), 4)
        -1.6121
    """
    modes, dim = means.shape
    require(modes >= 1, "means", "none", "one or more")
    diagonal = jnp.diagonal(scales, axis1=-2, axis2=-1) if scales.ndim == 3 else scales
    require_values(lambda s: s > 0, "scales", diagonal, "positive on the diagonal")
    weights = jnp.ones(modes, means.dtype) if weights is None else weights
    require_values(lambda p: p > 0, "weights", weights, "positive")
    log_weights = jnp.log(weights) - jnp.log(jnp.sum(weights))

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        components = jax.vmap(lambda mean, scale: normal.log_density(Normal(mean, scale), x))(means, scales)
        return jax.nn.logsumexp(log_weights + components)

    def sample(key: KeyArray) -> State:
        mode_key, noise_key = jax.random.split(key)
        mode = jax.random.categorical(mode_key, log_weights)
        noise = jax.random.normal(noise_key, (dim,), means.dtype)
        return normal.reparameterise(Normal(means[mode], scales[mode]), noise)

    return Target(dim, log_density, sample, 0.0)
