r"""A Brownian motion that is observed with noise, except in the middle: a chain of strongly correlated coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import normal
from dds.checks import require_shape, typed
from dds.targets._data import table
from dds.types import KeyArray, Normal, Scalar, State, Target

INNOVATION_SCALE = 0.1
"""The standard deviation of a step of the motion with known scales."""

OBSERVATION_SCALE = 0.15
"""The standard deviation of an observation of the motion with known scales."""


@typed
def brownian() -> Target:
    r"""A Brownian motion with missing middle observations and unknown scales.

    From $z_0 = 0$, for $t = 1, \dots, 30$,

    $$z_t \sim \mathcal N(z_{t-1}, \alpha^2), \qquad y_t \sim \mathcal N(z_t, \beta^2), \qquad
    \log \alpha, \log \beta \sim \mathcal N(0, 2^2),$$

    where $y_{11}, \dots, y_{20}$ are missing. The scales have log-normal priors.

    The coordinates are $\log \alpha, \log \beta, z_1, \dots, z_{30}$; the density is that of the logarithms.

    Returns:
        The target, of dimension 32: `log_z` is exact, by quadrature over the two scales.

    References:
        Sountsov, Radul and contributors (2020), Inference Gym, `BrownianMotionUnknownScalesMissingMiddleObservations`.

    Example:
        >>> brownian().dim
        32
    """
    observed = table("brownian")
    dim = 2 + len(observed)

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        prior = normal.log_density(Normal(jnp.zeros_like(x[:2]), jnp.asarray(2, x.dtype)), x[:2])
        return prior + _log_joint(x[2:], x[0], x[1], observed)

    return Target(dim, log_density, log_z=1.187749)


@typed
def brownian_known_scales() -> Target:
    r"""A Brownian motion with missing middle observations and known scales: a normal distribution in many coordinates.

    From $z_0 = 0$, for $t = 1, \dots, 30$, and with $y_{11}, \dots, y_{20}$ missing,

    $$z_t \sim \mathcal N(z_{t-1}, 0.1^2), \qquad y_t \sim \mathcal N(z_t, 0.15^2).$$

    The coordinates are $z_1, \dots, z_{30}$.

    Returns:
        The target, of dimension 30: `log_z` is exact and so is the sampler, for the posterior is normal.

    References:
        Sountsov, Radul and contributors (2020), Inference Gym, `BrownianMotionMissingMiddleObservations`.

    Example:
        >>> brownian_known_scales().dim
        30
    """
    observed = table("brownian")
    dim = len(observed)
    differences = np.eye(dim) - np.eye(dim, k=-1)
    seen = np.isfinite(observed) / OBSERVATION_SCALE**2
    covariance = np.linalg.inv(differences.T @ differences / INNOVATION_SCALE**2 + np.diag(seen))
    mean = covariance @ (seen * np.nan_to_num(observed))
    factor = np.linalg.cholesky(covariance)

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        innovation, observation = np.log([INNOVATION_SCALE, OBSERVATION_SCALE])
        return _log_joint(x, jnp.asarray(innovation, x.dtype), jnp.asarray(observation, x.dtype), observed)

    def sample(key: KeyArray) -> State:
        noise = jax.random.normal(key, (dim,))
        exact = Normal(jnp.asarray(mean, noise.dtype), jnp.asarray(factor, noise.dtype))
        return normal.reparameterise(exact, noise)

    return Target(dim, log_density, sample, 5.613044)


def _log_joint(
    path: State, log_innovation: Scalar, log_observation: Scalar, observed: Float[Array | np.ndarray, " dim"]
) -> Scalar:
    seen = np.flatnonzero(np.isfinite(observed))
    steps = jnp.diff(path, prepend=jnp.zeros_like(path[:1]))
    errors = jnp.asarray(observed[seen], path.dtype) - path[seen]
    return _log_noise(steps, log_innovation) + _log_noise(errors, log_observation)


def _log_noise(values: State, log_scale: Scalar) -> Scalar:
    return normal.log_density(Normal(jnp.zeros_like(values), jnp.exp(log_scale)), values)
