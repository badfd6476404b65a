r"""Bayesian logistic regressions: posteriors with one mode, not quite normal, of a few dozen correlated weights."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from dds import normal
from dds.checks import require, require_shape, require_values, typed
from dds.targets._data import table
from dds.types import Normal, Scalar, State, Target


@typed
def logistic_regression(
    features: Float[Array | np.ndarray, "rows columns"],
    labels: Real[Array | np.ndarray, " rows"],
    *,
    prior_scale: float = 1.0,
) -> Target:
    r"""The posterior of the weights of a logistic regression.

    With $X$ the features after a column of ones and $s$ the scale of the prior,

    $$\gamma(w) = \mathcal N(w; 0, s^2 I) \prod_i \frac{1}{1 + \exp(-(2 y_i - 1)\, X_i w)}.$$

    Its normalising constant is the evidence of the labels, for the prior is normalised.

    Args:
        features: The features, one row an observation. They are taken as they are: standardise them first.
        labels: The labels $y_i$, 0 or 1.
        prior_scale: The standard deviation `s` of the prior of every weight, the intercept included; positive.

    Returns:
        The target, of dimension `columns + 1`: the first coordinate is the intercept.

    Raises:
        ValueError: If a feature is not finite, a label is neither 0 nor 1 or `prior_scale` is not positive.

    Example:
        >>> target = logistic_regression(np.array([[1.0], [2.0]]), np.array([0, 1]))
        >>> round(
        ...     float(target.log_density(jnp.zeros(2))), 4
        ... )  # two coins, and the prior at its mode
        -3.2242
    """
    require_values(np.isfinite, "features", features, "finite")
    require_values(lambda y: (y == 0) | (y == 1), "labels", labels, "0 or 1")
    require(0 < prior_scale < float("inf"), "prior_scale", prior_scale, "positive and finite")
    # In double precision whatever the mode of JAX: a target may be built in one and evaluated in another.
    rows = np.asarray(features, np.float64)
    signs = 2 * np.asarray(labels, np.float64) - 1
    signed = signs[:, None] * np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    dim = signed.shape[1]

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        prior = normal.log_density(Normal(jnp.zeros_like(x), jnp.asarray(prior_scale, x.dtype)), x)
        # Accelerators multiply matrices of single precision with fewer digits unless told not to.
        logits = jnp.matmul(jnp.asarray(signed, x.dtype), x, precision=jax.lax.Precision.HIGHEST)
        return prior + jnp.sum(jax.nn.log_sigmoid(logits))

    return Target(dim, log_density)


@typed
def ionosphere() -> Target:
    r"""Logistic regression on the Ionosphere data: is a radar return good, from 34 features, on 351 rows.

    Features are standardised, except that a constant one, the second, is 0. The prior of every weight is
    $\mathcal N(0, 1)$.

    Returns:
        The target, of dimension 35: `log_z` is an estimate by annealed importance sampling, with standard error 0.002.

    References:
        Sigillito, Wing, Hutton and Baker (1989), Ionosphere, UCI Machine Learning Repository, CC BY 4.0.

    Example:
        >>> ionosphere().dim
        35
    """
    data = table("ionosphere")
    return logistic_regression(_standardised(data[:, :-1]), data[:, -1])._replace(log_z=-111.610, log_z_error=0.002)


@typed
def sonar() -> Target:
    r"""Logistic regression on the Sonar data: rock or metal, from the energy in 60 bands, on 208 rows.

    Features are standardised, and the label of a rock is 1. The prior of every weight is $\mathcal N(0, 1)$.

    Returns:
        The target, of dimension 61: `log_z` is an estimate by annealed importance sampling, with standard error 0.002.

    References:
        Sejnowski and Gorman (1988), Connectionist Bench (Sonar, Mines vs. Rocks), UCI Machine Learning Repository,
        CC BY 4.0.

    Example:
        >>> sonar().dim
        61
    """
    data = table("sonar")
    return logistic_regression(_standardised(data[:, :-1]), data[:, -1])._replace(log_z=-108.382, log_z_error=0.002)


@typed
def german_credit() -> Target:
    r"""Logistic regression on the German credit data: is a credit bad, from 24 features, on 1000 rows.

    Features are divided by their standard deviations but not centred. The prior of every weight is
    $\mathcal N(0, 10^2)$, normalised: some published figures leave it out.

    Returns:
        The target, of dimension 25: `log_z` is an estimate by annealed importance sampling, with standard error 0.0005.

    References:
        Hofmann (1994), Statlog (German Credit Data), the numeric version, UCI Machine Learning Repository, CC BY 4.0.

    Example:
        >>> german_credit().dim
        25
    """
    data = table("german_credit")
    features = data[:, :-1] / data[:, :-1].std(axis=0)
    return logistic_regression(features, data[:, -1] - 1, prior_scale=10.0)._replace(
        log_z=-585.0985, log_z_error=0.0005
    )


def _standardised(features: np.ndarray) -> np.ndarray:
    spread = features.std(axis=0)
    return (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
