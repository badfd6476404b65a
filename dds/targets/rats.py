r"""A hierarchical linear regression: a line for each of a group, of a level and a slope from common distributions."""

import jax.numpy as jnp
import numpy as np

from dds import normal
from dds.checks import require_shape, typed
from dds.targets._data import table
from dds.types import Normal, Scalar, State, Target

DAYS = np.array([8.0, 15.0, 22.0, 29.0, 36.0])
"""The ages of the rats when they were weighed."""


@typed
def rats() -> Target:
    r"""Growth of 30 young rats, weighed five times: a line for each, of a level and a slope of its own.

    With $t_j$ the age in days, 22 at the middle, and the weight $y_{ij}$ in grams,

    $$ \begin{aligned}
    y_{ij} &\sim \mathcal N\bigl(\alpha_i + \beta_i\,(t_j - 22),\ \sigma^2\bigr), \\
    \alpha_i &\sim \mathcal N(\mu_\alpha, \tau_\alpha^2), \\
    \beta_i &\sim \mathcal N(\mu_\beta, \tau_\beta^2),
    \end{aligned} $$

    with $\mu_\alpha, \mu_\beta \sim \mathcal N(0, 1000^2)$ and the logarithms of $\sigma$, $\tau_\alpha$ and
    $\tau_\beta$ from $\mathcal N(0, 2^2)$, everything normalised.

    The coordinates are $\log \sigma, \log \tau_\alpha, \log \tau_\beta, \mu_\alpha, \mu_\beta, \alpha_1, \dots,
    \alpha_{30}, \beta_1, \dots, \beta_{30}$.

    Returns:
        The target, of dimension 65: `log_z` is exact, by quadrature over the three scales, given which all is normal.

    References:
        Gelfand, Hills, Racine-Poon and Smith (1990), Illustration of Bayesian inference in normal data models using
        Gibbs sampling, for the data and the model; the priors of the scales are ours, since theirs are improper.

    Example:
        >>> rats().dim
        65
    """
    weights = table("rats")
    count = len(weights)
    dim = 5 + 2 * count

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        log_scales, means, levels, slopes = x[:3], x[3:5], x[5 : 5 + count], x[5 + count :]
        sigma, of_levels, of_slopes = jnp.exp(log_scales)
        lines = levels[:, None] + slopes[:, None] * jnp.asarray(DAYS - 22, x.dtype)[None, :]
        errors = jnp.ravel(jnp.asarray(weights, x.dtype) - lines)
        return (
            _log_normal(log_scales, 2.0)
            + _log_normal(means, 1000.0)
            + _log_normal(levels - means[0], of_levels)
            + _log_normal(slopes - means[1], of_slopes)
            + _log_normal(errors, sigma)
        )

    least_squares = np.polynomial.polynomial.polyfit(DAYS - 22, weights.T, 1)
    centre = np.concatenate([np.zeros(3), least_squares.mean(axis=1), *least_squares])
    spread = np.concatenate([np.full(3, 2.0), [20.0, 2.0], np.full(count, 20.0), np.full(count, 2.0)])
    return Target(
        dim, log_density, log_z=-579.083496, start=Normal(jnp.asarray(centre, float), jnp.asarray(spread, float))
    )


def _log_normal(values: State, scale: Scalar | float) -> Scalar:
    return normal.log_density(Normal(jnp.zeros_like(values), jnp.asarray(scale, values.dtype)), values)
