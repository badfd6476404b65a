r"""A logistic regression with a random effect for every plate: the scale of the effects is itself unknown."""

import jax
import jax.numpy as jnp
import numpy as np

from dds import normal
from dds.checks import require_shape, typed
from dds.targets._data import table
from dds.types import Normal, Scalar, State, Target


@typed
def seeds() -> Target:
    r"""Random-effect logistic regression on the Seeds data: how many of the seeds of 21 plates germinate.

    With $n_j$ seeds on plate $j$, of kind $x_{1j}$ (1 for Orobanche aegyptiaca 73, 0 for 75) on extract $x_{2j}$ (1 for
    cucumber, 0 for bean),

    $$r_j \sim \mathrm{Binomial}\bigl(n_j, \mathrm{logit}^{-1}(\eta_j)\bigr), \quad
    \eta_j = a_0 + a_1 x_{1j} + a_2 x_{2j} + a_{12} x_{1j} x_{2j} + b_j, \quad b_j \sim \mathcal N(0, 1 / \tau),$$

    with $\tau \sim \mathrm{Gamma}(0.01)$ of rate 0.01 and $a_i \sim \mathcal N(0, 10^2)$, everything normalised.

    The coordinates are $\log \tau, a_0, a_1, a_2, a_{12}, b_1, \dots, b_{21}$; the density is that of $\log \tau$.

    Returns:
        The target, of dimension 26: `log_z` is exact, by quadrature, for the integral over the effects falls apart into
        those of the plates and that over the coefficients into sums over the four kinds of plate.

    References:
        Crowder (1978), Beta-binomial Anova for proportions, table 3.

    Example:
        >>> seeds().dim
        26
    """
    kind, extract, germinated, total = table("seeds").T
    design = np.stack([np.ones_like(kind), kind, extract, kind * extract], axis=1)
    plates = len(design)
    dim = 5 + plates

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        successes, trials = jnp.asarray(germinated, x.dtype), jnp.asarray(total, x.dtype)
        log_tau, fixed, random = x[0], x[1:5], x[5:]
        shape = jnp.asarray(0.01, x.dtype)
        hyper = shape * (jnp.log(shape) + log_tau - jnp.exp(log_tau)) - jax.lax.lgamma(shape)
        coefficients = normal.log_density(Normal(jnp.zeros_like(fixed), jnp.asarray(10, x.dtype)), fixed)
        effects = -0.5 * jnp.sum(random**2) * jnp.exp(log_tau) + 0.5 * plates * (log_tau - jnp.log(2 * jnp.pi))
        logits = jnp.matmul(jnp.asarray(design, x.dtype), fixed, precision=jax.lax.Precision.HIGHEST) + random
        ways = _log_choose(trials, successes)
        likelihood = jnp.sum(successes * logits - trials * jax.nn.softplus(logits) + ways)
        return hyper + coefficients + effects + likelihood

    return Target(dim, log_density, log_z=-73.406179)


def _log_choose(total, part):
    return jax.lax.lgamma(total + 1) - jax.lax.lgamma(part + 1) - jax.lax.lgamma(total - part + 1)
