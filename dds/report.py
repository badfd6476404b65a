"""What a set of log weights amounts to: the figures, and a plain sentence on whether to trust them."""

from typing import NamedTuple

import numpy as np
from beartype import beartype
from jaxtyping import Array, Float, jaxtyped

from dds import estimators

RARE = 0.01
"""The share of the target that the sampler's paths of the largest weights stand for, by their own account."""

UNSEEN = 0.03
"""The share of explored points with weights as large as theirs, above which a part of the target is said to be missed.

It should be `RARE`; the rest allows for a population of a thousand points that are not quite independent.
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
        unseen: The share of explored points whose weights are as large as those that `RARE` of the target has by the
            sampler's own account, or `None` without exploration.
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
    unseen: float | None = None


@jaxtyped(typechecker=beartype)
def report(
    log_weights: Float[Array, " paths"],
    *,
    log_z_true: float | None = None,
    forward_log_weights: Float[Array, " forward_paths"] | None = None,
    explored_log_weights: Float[Array, " explored_paths"] | None = None,
) -> Report:
    """Computes the figures of a sampler; needs arviz-stats, as `dds.estimators.pareto_k` does.

    Args:
        log_weights: Log weights of paths of the sampler.
        log_z_true: The true `log Z`, where it is known.
        forward_log_weights: Log weights of paths noised from exact samples, where there are any.
        explored_log_weights: Log weights of paths noised from points that other means have found, such as
            `dds.exploration.temper`. Where the sampler does not go, paths have weights that it never sees.

    Returns:
        The figures.

    Example:
        >>> import jax.numpy as jnp
        >>> report(jnp.zeros(1000), log_z_true=0.0).ess
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
        eubo=None if forward is None else float(estimators.eubo(forward).value),
        ess=round(float(estimators.effective_sample_size(log_weights)), 6),
        forward_ess=None if forward is None else round(float(estimators.forward_effective_sample_size(forward)), 6),
        pareto_k=estimators.pareto_k(log_weights),
        unseen=None if explored is None else float(np.mean(np.asarray(explored) > _rare_level(log_weights))),
    )


def _rare_level(log_weights: Float[Array, " paths"]) -> float:
    """The log weight above which lies no more than `RARE` of the sum of all weights."""
    ordered = np.sort(np.asarray(log_weights, np.float64))[::-1]
    shares = np.cumsum(np.exp(ordered - ordered[0]))
    first = np.searchsorted(shares, RARE * shares[-1], side="right")
    return float(ordered[min(first, ordered.size - 1)]) + 1e-3  # weights that differ by rounding are the same


@jaxtyped(typechecker=beartype)
def doubts(figures: Report) -> list[str]:
    r"""What speaks against trusting the figures, each a clause of a sentence.

    Args:
        figures: The figures.

    Returns:
        The reasons; an empty list if nothing was found. The limit on Pareto k is that of the reference,
        $\min(1 - 1 / \log_{10} N, 0.7)$.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), section 3.2.4.

    Example:
        >>> import jax.numpy as jnp
        >>> doubts(report(jnp.zeros(1000), log_z_true=1.0))
        ['log Z is off the truth by 1']
    """
    reasons = []
    if not np.isfinite([figures.log_z, figures.log_z_standard_error, figures.elbo]).all():
        reasons.append("some weights are zero, infinite or not a number")
    limit = min(1 - 1 / np.log10(max(figures.paths, 11)), 0.7)
    if figures.pareto_k > limit:
        reasons.append(f"Pareto k is {figures.pareto_k:.2f}, above {limit:.2f}: a few paths carry the estimate")
    if (samples := figures.ess * figures.paths) < MINIMAL_SAMPLES:
        reasons.append(f"{figures.paths} paths are worth only {samples:.0f} samples")
    if figures.forward_ess is not None and figures.forward_ess < figures.ess / 2:
        reasons.append(
            f"seen from exact samples the ESS is {figures.forward_ess:.2g}, not {figures.ess:.2g}: "
            "the sampler hardly visits a part of the target"
        )
    if figures.unseen is not None and figures.unseen > UNSEEN:
        reasons.append(
            f"of points found by other means {figures.unseen:.0%} have weights that {RARE:.0%} should have: "
            "the sampler hardly visits where they are"
        )
    if figures.log_z_true is not None:
        error = abs(figures.log_z - figures.log_z_true)
        if error > 4 * figures.log_z_standard_error + 1e-5 * (1 + abs(figures.log_z_true)):
            reasons.append(f"log Z is off the truth by {error:.3g}")
    return reasons


@jaxtyped(typechecker=beartype)
def verdict(figures: Report) -> str:
    """Says whether to trust the figures, and why.

    Args:
        figures: The figures.

    Returns:
        A sentence that begins with "Trust" or "Do not trust".

    Example:
        >>> import jax.numpy as jnp
        >>> verdict(report(jnp.zeros(1000), log_z_true=1.0))
        'Do not trust log Z and the weighted samples: log Z is off the truth by 1.'
    """
    if reasons := doubts(figures):
        return f"Do not trust log Z and the weighted samples: {'; '.join(reasons)}."
    worth = (
        f"{figures.paths} paths are worth {figures.ess * figures.paths:.0f} samples and the weights have a light tail"
    )
    if figures.forward_ess is None:
        caveat = "without exact samples nothing here can show a mode that every path missed"
        if figures.unseen is not None:
            caveat = "a part of the target that neither the paths nor a tempered population found cannot show"
        return f"Trust log Z and the weighted samples for the modes that were found: {worth}; but {caveat}."
    return f"Trust log Z and the weighted samples: {worth}, also as seen from exact samples."
