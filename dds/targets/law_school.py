r"""An item response model: how hard the questions of a test are, and how well each tells who is able."""

import jax
import jax.numpy as jnp
import numpy as np

from dds import normal
from dds.checks import require_shape, typed
from dds.targets._data import table
from dds.types import Normal, Scalar, State, Target

ABILITIES = 61
"""The nodes of the quadrature over the ability of a person: what it leaves out is below rounding."""


@typed
def law_school() -> Target:
    r"""Item response on the Law School Admission Test: the answers of 1,000 persons to five questions.

    Person $i$ of ability $\theta_i \sim \mathcal N(0, 1)$ answers question $j$ rightly with probability

    $$ p_{ij} = \mathrm{logit}^{-1}(b_j + a_j \theta_i), $$

    with $\log a_j \sim \mathcal N(0, 1)$ and $b_j \sim \mathcal N(0, 5^2)$, everything normalised. The abilities are
    integrated out by Gauss and Hermite's rule, so that a density evaluates the 32 patterns of answers, not the persons.

    The coordinates are $\log a_1, \dots, \log a_5, b_1, \dots, b_5$: discriminations, and intercepts.

    Returns:
        The target, of dimension 10. Its `log_z` is that of importance sampling with 4 million draws from a Student-t
        distribution at the mode, in NumPy.

    References:
        Bock and Lieberman (1970), Fitting a response model for n dichotomously scored items, for the data; Birnbaum
        (1968), for the model.

    Example:
        >>> law_school().dim
        10
    """
    rows = table("law_school")
    answers, persons = 2 * rows[:, :-1] - 1, rows[:, -1]
    nodes, weights = np.polynomial.hermite_e.hermegauss(ABILITIES)
    log_shares = np.log(weights) - np.log(weights.sum())
    items = answers.shape[1]

    def log_density(x: State) -> Scalar:
        require_shape(x, 2 * items)
        log_slopes, intercepts = x[:items], x[items:]
        logits = intercepts[:, None] + jnp.exp(log_slopes)[:, None] * jnp.asarray(nodes, x.dtype)[None, :]
        # One row for each pattern, one column for each ability.
        right = jax.nn.log_sigmoid(jnp.asarray(answers, x.dtype)[:, :, None] * logits[None])
        log_patterns = jax.nn.logsumexp(jnp.sum(right, axis=1) + jnp.asarray(log_shares, x.dtype)[None, :], axis=1)
        prior = normal.log_density(Normal(jnp.zeros_like(x), _scales(x)), x)
        return prior + jnp.sum(jnp.asarray(persons, x.dtype) * log_patterns)

    def _scales(x: State) -> State:
        return jnp.repeat(jnp.asarray([1.0, 5.0], x.dtype), items)

    return Target(2 * items, log_density, log_z=-2493.7756, log_z_error=0.0008)
