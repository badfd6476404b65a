"""What a set of log weights amounts to: the figures, and a plain sentence on whether to trust them."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from dds import estimators
from dds.checks import typed
from dds.types import LogWeights

RARE = 0.01
"""The share of the target that the sampler's paths of the largest weights stand for, as the weights themselves say."""

MISSED = 0.03
"""The share of points found otherwise with weights as large as theirs, above which a part of the target is missed.

It should be `RARE`; the rest allows for a thousand tempered particles that are not quite independent.
"""

MINIMAL_SAMPLES = 100
"""The effective number of samples below which a standard error is itself too uncertain to be quoted."""


class Report(NamedTuple):
    """The figures of a sampler.

    Attributes:
        paths: The number of paths behind them.
        log_z: The estimate of `log Z`.
        log_z_standard_error: Its standard error.
        log_z_true: The truth, or `None`.
        elbo: The evidence lower bound.
        eubo: The evidence upper bound, or `None` without exact samples.
        ess: The effective sample size, as a fraction.
        forward_ess: The same seen from exact samples, or `None` without them.
        pareto_k: The shape of the tail of the weights.
        missed_mass: The share of points found otherwise whose weights are as large as those that `RARE` of the target
            has by the sampler's own weights, or `None` without such points.
        log_z_true_error: The standard error of the truth, 0 where it is exact.
    """

    paths: int
    log_z: float
    log_z_standard_error: float
    log_z_true: float | None
    elbo: float
    eubo: float | None
    ess: float
    forward_ess: float | None
    pareto_k: float
    missed_mass: float | None = None
    log_z_true_error: float = 0.0


@typed
def summarise(
    log_weights: LogWeights,
    *,
    log_z_true: float | None = None,
    log_z_true_error: float = 0.0,
    forward_log_weights: Float[Array | np.ndarray, " forward_paths"] | None = None,
    explored_log_weights: Float[Array | np.ndarray, " explored_paths"] | None = None,
) -> Report:
    """Computes the figures of a sampler.

    Args:
        log_weights: Log weights of `dds.estimators.LEAST` or more paths of the sampler.
        log_z_true: The true `log Z`, where it is known.
        log_z_true_error: Its standard error, where it is an estimate.
        forward_log_weights: Log weights of paths noised from exact samples, where there are any.
        explored_log_weights: Log weights of paths noised from points found by other means, such as `dds.smc.temper`.
            Where the sampler does not go, paths have weights that it never sees.

    Returns:
        The figures. Evidence that is broken, as weights that are not numbers, makes figures that are not numbers.

    Raises:
        ValueError: If there are fewer than `dds.estimators.LEAST` paths.

    Example:
        >>> import jax.numpy as jnp
        >>> summarise(jnp.zeros(1000), log_z_true=0.0).ess
        1.0
    """
    log_z = estimators.log_z(log_weights)
    forward, explored = forward_log_weights, explored_log_weights
    return Report(
        paths=log_weights.size,
        log_z=float(log_z.value),
        log_z_standard_error=float(log_z.standard_error),
        log_z_true=log_z_true,
        elbo=float(estimators.elbo(log_weights).value),
        eubo=None if forward is None else _or_nan(estimators.eubo, forward),
        ess=round(float(estimators.effective_sample_size(log_weights)), 6),
        forward_ess=None if forward is None else round(_or_nan(estimators.forward_effective_sample_size, forward), 6),
        pareto_k=estimators.pareto_k(log_weights),
        missed_mass=None if explored is None else _missed_mass(log_weights, explored),
        log_z_true_error=log_z_true_error,
    )


def _or_nan(estimator, log_weights) -> float:
    """An estimate; without weights there is none, and JAX would make up a number."""
    if log_weights.size == 0:
        return float("nan")
    estimate = estimator(log_weights)
    return float(estimate.value if isinstance(estimate, estimators.Estimate) else estimate)


def _missed_mass(log_weights: LogWeights, explored_log_weights: Float[Array | np.ndarray, " explored_paths"]) -> float:
    """The share of explored weights above the level above which lies no more than `RARE` of the sum of all weights."""
    own, explored = (np.asarray(weights, np.float64) for weights in (log_weights, explored_log_weights))
    for weights in (own, explored):
        if np.isnan(weights).any() or np.isposinf(weights).any() or np.isneginf(weights).all():  # all of none, too
            return float("nan")
    ordered = np.sort(own)[::-1]
    shares = np.cumsum(np.exp(ordered - ordered[0]))
    first = np.searchsorted(shares, RARE * shares[-1], side="right")
    level = float(ordered[min(first, ordered.size - 1)]) + 1e-3  # weights that differ by rounding are the same
    return float(np.mean(explored > level))


@typed
def doubts(report: Report) -> list[str]:
    r"""What speaks against trusting the figures, each a clause of a sentence.

    Every limit is written as what must hold for trust, so that a figure that is not a number speaks against it.

    Args:
        report: The figures.

    Returns:
        The reasons; an empty list if nothing was found. The limit on Pareto k is that of the reference,
        $\min(1 - 1 / \log_{10} N, 0.7)$.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), section 3.2.4.

    Example:
        >>> import jax.numpy as jnp
        >>> doubts(summarise(jnp.zeros(1000), log_z_true=1.0))
        ['log Z is off the truth by 1']
    """
    reasons = []
    # Weights of zero are legitimate, and make the ELBO minus infinity.
    if not np.isfinite([report.log_z, report.log_z_standard_error]).all() or not report.elbo < np.inf:
        reasons.append("some weights are infinite or not a number, or all are zero")
    limit = min(1 - 1 / np.log10(max(report.paths, 11)), 0.7)
    if not report.pareto_k <= limit:
        reasons.append(f"Pareto k is {report.pareto_k:.2f}, above {limit:.2f}: a few paths carry the estimate")
    if not (samples := report.ess * report.paths) >= MINIMAL_SAMPLES:
        reasons.append(f"{report.paths} paths are worth only {samples:.0f} samples")
    if report.forward_ess is not None and not report.forward_ess >= report.ess / 2:
        reasons.append(
            f"seen from exact samples the ESS is {report.forward_ess:.2g}, not {report.ess:.2g}: "
            "the sampler hardly visits a part of the target"
        )
    if report.missed_mass is not None and not report.missed_mass <= MISSED:
        reasons.append(
            f"of points found by other means {report.missed_mass:.0%} have weights that {RARE:.0%} should have: "
            "the sampler hardly visits where they are"
            if np.isfinite(report.missed_mass)
            else "the check by points found by other means failed"
        )
    if report.log_z_true is not None:
        error = abs(report.log_z - report.log_z_true)
        tolerance = 4 * math.hypot(report.log_z_standard_error, report.log_z_true_error)
        if not np.isfinite([report.log_z_true, report.log_z_true_error]).all():
            reasons.append("the true log Z or its error is not a finite number")
        elif not error <= tolerance + 1e-5 * (1 + abs(report.log_z_true)):  # the rest allows for rounding
            reasons.append(f"log Z is off the truth by {error:.3g}")
    return reasons


@typed
def verdict(report: Report) -> str:
    """Says whether to trust the figures, and why.

    Args:
        report: The figures.

    Returns:
        A sentence that begins with "Trust" or "Do not trust".

    Example:
        >>> import jax.numpy as jnp
        >>> verdict(summarise(jnp.zeros(1000), log_z_true=1.0))
        'Do not trust log Z and the weighted samples: log Z is off the truth by 1.'
    """
    if reasons := doubts(report):
        return f"Do not trust log Z and the weighted samples: {'; '.join(reasons)}."
    worth = f"{report.paths} paths are worth {report.ess * report.paths:.0f} samples and the weights have a light tail"
    if report.forward_ess is None:
        caveat = "without exact samples nothing here can show a mode that every path missed"
        if report.missed_mass is not None:
            caveat = "a part of the target that neither the paths nor tempered particles found cannot show"
        return f"Trust log Z and the weighted samples for the modes that were found: {worth}; but {caveat}."
    return f"Trust log Z and the weighted samples: {worth}, also as seen from exact samples."
