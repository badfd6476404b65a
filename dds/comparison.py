r"""Models compared by their evidence.

With the evidence $Z_i = p(y \mid M_i)$ of each model, the Bayes factor of two is $Z_i / Z_j$, and with equal prior
probabilities $p(M_i \mid y) = Z_i / \sum_j Z_j$. The data and their scale are to be the same in all models, and every
density is to have all its constants.

References: Kass and Raftery (1995), Bayes factors.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dds.checks import require, typed
from dds.estimators import Estimate
from dds.results import Result
from dds.trust import findings


class Model(NamedTuple):
    """A model among others.

    Attributes:
        name: Its name.
        log_z: The logarithm of its evidence.
        standard_error: Its standard error (`dds.evaluation.Report`), with what is known to be missing.
        log_bayes_factor: The log Bayes factor against the model with the largest evidence: zero or less.
        log_bayes_factor_standard_error: Its standard error, zero for that model itself.
        probability: The posterior probability, if all models had the same before.
        trusted: Whether the verdict of its result is to trust it.
    """

    name: str
    log_z: float
    standard_error: float
    log_bayes_factor: float
    log_bayes_factor_standard_error: float
    probability: float
    trusted: bool


@typed
def log_bayes_factor(one: Result, other: Result) -> Estimate:
    """The log Bayes factor of two models.

    The errors are those of the reports, the systematic parts included; the results are to come from different keys.

    Args:
        one: The result of the model above.
        other: That of the model below.

    Returns:
        The difference of the two log evidences, and its standard error.

    Example:
        >>> import dds
        >>> import jax
        >>> one = dds.sample(
        ...     jax.random.key(0), lambda x: -jnp.sum(x**2) / 2, 2, paths=100
        ... )
        >>> other = dds.sample(
        ...     jax.random.key(1), lambda x: -jnp.sum(x**2) / 2 - 3, 2, paths=100
        ... )
        >>> round(float(log_bayes_factor(one, other).value), 1)
        3.0
    """
    return Estimate(
        one.log_z.value - other.log_z.value, jnp.hypot(one.log_z.standard_error, other.log_z.standard_error)
    )


@typed
def compare(results: Mapping[str, Result]) -> list[Model]:
    """Models in the order of their evidence, the largest first; `pandas.DataFrame` makes a table of it.

    Args:
        results: The result of each model, by its name.

    Returns:
        The models.

    Raises:
        ValueError: If there are none.

    Example:
        >>> import dds
        >>> import jax
        >>> normal = lambda x: -jnp.sum(x**2) / 2  # log Z is 1.84
        >>> one = dds.sample(jax.random.key(0), normal, 2, paths=100)
        >>> less = one.log_z._replace(value=one.log_z.value - 3)
        >>> other = one._replace(log_z=less)
        >>> [
        ...     (model.name, round(model.probability, 2))
        ...     for model in compare({"a": other, "b": one})
        ... ]
        [('b', 0.95), ('a', 0.05)]
    """
    require(len(results) > 0, "results", "none", "one or more")
    ordered = sorted(results.items(), key=lambda item: -float(item[1].log_z.value))
    best = ordered[0][1]
    log_z = np.array([float(result.log_z.value) for _, result in ordered])
    shares = np.exp(log_z - log_z[0])
    models = []
    for (name, result), share in zip(ordered, shares / shares.sum(), strict=True):
        value, error = (float(part) for part in log_bayes_factor(result, best))
        own = (float(result.log_z.value), float(result.log_z.standard_error))
        trusted = all(finding.holds for finding in findings(result.report))
        models.append(Model(name, *own, value, error if result is not best else 0.0, float(share), trusted))
    return models
