"""What a set of log weights amounts to: the figures, what speaks against them, and a plain sentence.

What is reported first is data: `Report` holds the figures, `findings` compares each with its limit and says what
follows, and `verdict` puts it in words.
"""

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

It should be `RARE`; the rest allows for tempered particles that are not quite independent.
"""

MISSED_EXACT = 0.02
"""The same for exact samples, which are independent."""

MISSED_MODES = 0.005
"""The share of the target in modes that the sampler does not cover, above which nothing is to be trusted."""

MISSED_TAILS = 0.005
"""The share of the target farther out than any draw, above which nothing is to be trusted."""

ESCAPED = 0.0002
"""The least share of chains that leave where paths are, above which nothing is to be trusted: seven of 4,096 are."""

NAN_SHARE = 0.01
"""The share of paths that end where the density is not a number, up to which they are taken for paths far out."""

HEAVY = 0.05
"""The share of the sum of weights in the largest hundredth of them, up to which a heavy tail does not matter."""

VARIANCE, MEAN = 0.5, 1.0
"""The Pareto k above which weights have no variance, and no mean."""

MINIMAL_SAMPLES = 100
"""The effective number of samples below which a standard error is itself too uncertain to be quoted."""

DEPENDENT = 1.5
"""What the standard error of the bridge is multiplied by, for refined paths are not quite independent."""


class Report(NamedTuple):
    """The figures of a sampler.

    Attributes:
        paths: The number of paths behind them.
        log_z: The estimate of `log Z`: that of the bridge where there is one, or that of the weights where it has the
            smaller error, their effective sample size is not poor, their tail is light, and the bridge does not say
            that there is more.
        log_z_standard_error: Its standard error. What a heavy tail of the weights may hide is part of it, and what is
            known to lie in other modes or farther out than any draw; where there are two estimates, also half of their
            difference, as far as it is more than the error of the other one explains; and for the bridge how far it
            still moved with the last moves of refined paths.
        log_z_true: The truth, or `None`.
        elbo: The evidence lower bound.
        eubo: The evidence upper bound, or `None` without exact samples.
        ess: The effective sample size of the sampler's own paths, as a fraction.
        forward_ess: The same seen from exact samples, or `None` without them. One of them at which the sampler's
            density is far too small makes it nearly zero, however little mass that is.
        pareto_k: The shape of the tail of the weights.
        missed_mass: The share of points found otherwise whose weights are as large as those that `RARE` of the target
            has by the sampler's own weights, or `None` without such points.
        missed_exact: The same of exact samples, or `None` without them.
        log_z_true_error: The standard error of the truth, 0 where it is exact.
        heavy_share: The share of the sum of weights in the largest hundredth of them.
        zero_share: The share of paths whose weight is zero, as outside of a hard support.
        log_z_of_weights: The estimate of the weights alone.
        log_z_of_weights_standard_error: Its standard error.
        log_z_of_bridge: The estimate of Bennett's acceptance ratio with refined paths, or `None`.
        eubo_of_particles: The evidence upper bound as the refined paths see it, or `None`.
        missed_modes: The share of the target in modes that the sampler does not cover, or `None` if none were looked
            for.
        missed_tails: The share of the target farther out than any draw, at least, of `dds.tails.beyond`, or `None` if
            that was not asked.
        escaped: The share of the target, at least, where no path goes, not even with a weight far above all others, but
            Markov chains from the samples do, of `dds.tails.escaped`; `None` if that was not asked.
        settled: Whether the points found otherwise have arrived at the target; `None` if there are none.
        where: Where the missed part lies, in words; empty if nothing is missed.
        samples: The effective number of samples, refined ones included.
        nan_share: The share of paths that end where the density is not a number: they count as of weight zero.
        log_z_of_another: The largest estimate of `log Z` by another sampler that was tried, or `None`.
        log_z_of_another_standard_error: Its standard error.
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
    missed_exact: float | None = None
    log_z_true_error: float = 0.0
    heavy_share: float = 0.0
    zero_share: float = 0.0
    log_z_of_weights: float = math.nan
    log_z_of_weights_standard_error: float = math.nan
    log_z_of_bridge: float | None = None
    eubo_of_particles: float | None = None
    missed_modes: float | None = None
    missed_tails: float | None = None
    escaped: float | None = None
    settled: bool | None = None
    where: str = ""
    samples: float = math.nan
    nan_share: float = 0.0
    log_z_of_another: float | None = None
    log_z_of_another_standard_error: float = 0.0


class Finding(NamedTuple):
    """One figure and its limit.

    Attributes:
        name: The name of the figure, that of `Report` where it is one.
        value: The figure.
        limit: The limit.
        holds: Whether it is on the good side of it: a figure that is not a number is not.
        consequence: What follows if it is not, a clause of a sentence.
    """

    name: str
    value: float
    limit: float
    holds: bool
    consequence: str


@typed
def summarise(
    log_weights: LogWeights,
    *,
    log_z_true: float | None = None,
    log_z_true_error: float = 0.0,
    forward_log_weights: Float[Array | np.ndarray, " forward_paths"] | None = None,
    explored_log_weights: Float[Array | np.ndarray, " explored_paths"] | None = None,
    refined_log_weights: Float[Array | np.ndarray, " refined_paths"] | None = None,
    drift: float = 0.0,
    missed_modes: float | None = None,
    missed_tails: float | None = None,
    escaped: float | None = None,
    settled: bool | None = None,
    where: str = "",
    nan_share: float = 0.0,
) -> Report:
    """Computes the figures of a sampler.

    Args:
        log_weights: Log weights of `dds.estimators.LEAST` or more paths of the sampler.
        log_z_true: The true `log Z`, where it is known.
        log_z_true_error: Its standard error, where it is an estimate.
        forward_log_weights: Log weights of paths noised from exact samples, where there are any.
        explored_log_weights: Log weights of paths noised from points found by other means, such as `dds.smc.temper`.
            Where the sampler does not go, paths have weights that it never sees.
        refined_log_weights: Log weights of paths of the target, as of `dds.smc.refine`.
        drift: How far the bridge moved with their last moves.
        missed_modes: As in `Report`, of `dds.exploration.uncovered`.
        missed_tails: As in `Report`.
        escaped: As in `Report`.
        settled: As in `Report`.
        where: As in `Report`, of `differences`.
        nan_share: As in `Report`.

    Returns:
        The figures. Evidence that is broken, as weights that are not numbers, makes figures that are not numbers.

    Raises:
        ValueError: If there are fewer than `dds.estimators.LEAST` paths.

    Example:
        >>> import jax.numpy as jnp
        >>> summarise(jnp.zeros(1000), log_z_true=0.0).ess
        1.0
    """
    own = estimators.log_z(log_weights)
    pareto_k, heavy_share = estimators.pareto_k(log_weights), _heavy_share(log_weights)
    log_z, error = float(own.value), math.hypot(own.standard_error, _hidden(pareto_k, heavy_share, log_weights.size))
    of_bridge, eubo_of_particles = None, None
    ess = round(float(estimators.effective_sample_size(log_weights)), 6)
    samples = ess * log_weights.size
    if refined_log_weights is not None:
        bridge = estimators.bridge(log_weights, refined_log_weights)
        of_bridge = float(bridge.value)
        # Refined paths begin as so many of the sampler's own: what these do not reach the bridge hardly sees.
        hidden = _hidden(pareto_k, heavy_share, min(log_weights.size, refined_log_weights.size))
        sound = ess >= estimators.POOR and _is_light(pareto_k, heavy_share, log_weights.size)
        log_z, error = _better_of(own, error, bridge, math.hypot(drift, hidden), sound)
        eubo_of_particles = _or_nan(estimators.eubo, refined_log_weights)
        pooled = estimators.pool(log_weights, refined_log_weights, bridge.value)
        samples = float(estimators.effective_sample_size(pooled)) * pooled.size
    error = math.hypot(error, missed_modes or 0.0, missed_tails or 0.0, escaped or 0.0)
    forward, explored = forward_log_weights, explored_log_weights
    return Report(
        paths=log_weights.size,
        log_z=log_z,
        log_z_standard_error=error,
        log_z_true=log_z_true,
        elbo=float(estimators.elbo(log_weights).value),
        eubo=None if forward is None else _or_nan(estimators.eubo, forward),
        ess=ess,
        forward_ess=None if forward is None else round(_or_nan(estimators.forward_effective_sample_size, forward), 6),
        pareto_k=pareto_k,
        missed_mass=None if explored is None else _missed_mass(log_weights, explored),
        missed_exact=None if forward is None else _missed_mass(log_weights, forward),
        log_z_true_error=log_z_true_error,
        heavy_share=heavy_share,
        zero_share=float(np.mean(np.isneginf(log_weights))),
        log_z_of_weights=float(own.value),
        log_z_of_weights_standard_error=float(own.standard_error),
        log_z_of_bridge=of_bridge,
        eubo_of_particles=eubo_of_particles,
        missed_modes=missed_modes,
        missed_tails=missed_tails,
        escaped=escaped,
        settled=settled,
        where=where,
        samples=samples,
        nan_share=nan_share,
    )


def _better_of(
    own: estimators.Estimate, error: float, bridge: estimators.Estimate, systematic: float, sound: bool
) -> tuple[float, float]:
    """The estimate of the bridge, or that of the weights where they are sound and it is better, and its error.

    Half of what they differ by, as far as the error of the other does not explain it, is a part of the error of each.
    """
    of_weights, own_error = float(own.value), float(own.standard_error)
    of_bridge, bridge_error = float(bridge.value), DEPENDENT * float(bridge.standard_error)
    more = of_bridge - of_weights
    error = math.hypot(error, max(abs(more) - 2 * bridge_error, 0.0) / 2)
    its_error = math.hypot(bridge_error, max(abs(more) - 2 * own_error, 0.0) / 2, systematic)
    if sound and error < its_error and more <= 2 * math.hypot(own_error, bridge_error):
        return of_weights, error
    return of_bridge, its_error


def _hidden(pareto_k: float, heavy_share: float, paths: int) -> float:
    r"""What a heavy tail adds to Z beyond the largest of the weights, as a share of it.

    The tail is the largest hundredth, $M$ weights. Of the sum of a Pareto tail of shape $k$ a share of about $M^{k-1}$
    lies beyond the quantile that $M$ draws reach. Where the weights have a variance, that is enough; and a
    tail that carries next to nothing hides as little.
    """
    if not _is_heavy(pareto_k, heavy_share):
        return 0.0
    return heavy_share * max(paths // 100, 1) ** (min(pareto_k, 1.0) - 1)


def _is_light(pareto_k: float, heavy_share: float, paths: int) -> bool:
    return pareto_k <= _limit(paths) or heavy_share <= HEAVY


def _limit(paths: int) -> float:
    """The largest Pareto k with which so many paths give an estimate."""
    return float(min(1 - 1 / np.log10(max(paths, 11)), 0.7))


def _is_heavy(pareto_k: float, heavy_share: float) -> bool:
    return pareto_k > VARIANCE and heavy_share > HEAVY


@typed
def has_heavy_tail(log_weights: LogWeights) -> bool:
    """Whether weights have no variance, and the largest hundredth carries more than next to nothing; or have no mean.

    Args:
        log_weights: The log weights of `dds.estimators.LEAST` or more paths.

    Returns:
        Whether so: then more may lie where no path was than the standard error says. Of weights without a mean any
        number may, however little the largest of them carry.

    Example:
        >>> u = np.random.default_rng(0).random(10_000)
        >>> has_heavy_tail(-0.8 * np.log(u)), has_heavy_tail(-0.2 * np.log(u))
        (True, False)
    """
    pareto_k = estimators.pareto_k(log_weights)
    return _is_heavy(pareto_k, _heavy_share(log_weights)) or pareto_k > MEAN


def _heavy_share(log_weights: LogWeights) -> float:
    if not np.isfinite(np.max(log_weights)):
        return float("nan")
    weights = np.sort(np.exp(np.asarray(log_weights, np.float64) - np.max(log_weights)))
    return float(np.sum(weights[-max(weights.size // 100, 1) :]) / np.sum(weights))


@typed
def large(log_weights: LogWeights, explored_log_weights: Float[Array | np.ndarray, " explored_paths"]) -> np.ndarray:
    """Which points have weights as large as those that `RARE` of the target has by the sampler's own weights.

    Args:
        log_weights: Log weights of paths of the sampler.
        explored_log_weights: Log weights of paths noised from points found by other means.

    Returns:
        For each point, whether so.

    Example:
        >>> import jax.numpy as jnp
        >>> large(jnp.zeros(1000), jnp.array([0.0, 2.0])).tolist()
        [False, True]
    """
    own, explored = (np.asarray(weights, np.float64) for weights in (log_weights, explored_log_weights))
    ordered = np.sort(own)[::-1]
    shares = np.cumsum(np.exp(ordered - ordered[0]))
    first = np.searchsorted(shares, RARE * shares[-1], side="right")
    level = float(ordered[min(first, ordered.size - 1)]) + estimators.ROUNDING
    return explored > level


@typed
def differences(
    points: Float[Array | np.ndarray, "missed dim"],
    samples: Float[Array | np.ndarray, "paths dim"],
    log_weights: LogWeights,
) -> str:
    """Where points lie that a sampler misses: the coordinates in which they differ most from its weighted samples.

    Args:
        points: The points.
        samples: The weighted samples.
        log_weights: Their log weights.

    Returns:
        A clause, empty if there are no points.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> differences(
        ...     rng.normal(size=(50, 2)) + np.array([4.0, 0]),
        ...     rng.normal(size=(500, 2)),
        ...     np.zeros(500),
        ... )
        'at coordinate 0 about 4.0 (else -0.1 +- 1.0)'
    """
    if not len(points):
        return ""
    weights = np.exp(np.asarray(log_weights, np.float64) - np.max(log_weights))
    weights /= weights.sum()
    mean = weights @ np.asarray(samples)
    sd = np.sqrt(weights @ (np.asarray(samples) - mean) ** 2) + 1e-30
    theirs = np.mean(np.asarray(points), axis=0)
    i = int(np.argmax(np.abs(theirs - mean) / sd))
    return f"at coordinate {i} about {theirs[i]:.1f} (else {mean[i] + 0:.1f} +- {sd[i]:.1f})"


def _or_nan(estimator, log_weights) -> float:
    """An estimate; without weights there is none, and JAX would make up a number."""
    if log_weights.size == 0:
        return float("nan")
    estimate = estimator(log_weights)
    return float(estimate.value if isinstance(estimate, estimators.Estimate) else estimate)


def _missed_mass(log_weights: LogWeights, explored_log_weights: Float[Array | np.ndarray, " explored_paths"]) -> float:
    """The share of explored weights that are large."""
    own, explored = (np.asarray(weights, np.float64) for weights in (log_weights, explored_log_weights))
    for weights in (own, explored):
        if np.isnan(weights).any() or np.isposinf(weights).any() or np.isneginf(weights).all():  # all of none, too
            return float("nan")
    return float(np.mean(large(log_weights, explored_log_weights)))


@typed
def findings(report: Report) -> list[Finding]:
    r"""The figures that matter for trust, each with its limit and what follows if it does not hold.

    Every limit is written as what must hold for trust, so that a figure that is not a number speaks against it.

    Args:
        report: The figures.

    Returns:
        The findings, those that hold as well. The limit on Pareto k is that of the reference,
        $\min(1 - 1 / \log_{10} N, 0.7)$; a heavy tail that carries next to nothing, or that the bridge has mended, is
        no reason for doubt.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), section 3.2.4.

    Example:
        >>> import jax.numpy as jnp
        >>> [
        ...     finding.name
        ...     for finding in findings(summarise(jnp.zeros(1000), log_z_true=1.0))
        ...     if not finding.holds
        ... ]
        ['error of log Z']
    """
    return _by_weights(report) + _by_other_means(report) + _by_other_estimates(report)


@typed
def is_estimated(report: Report) -> bool:
    """Whether the weights themselves allow an estimate of log Z: none is broken, enough count, and the tail is light.

    Args:
        report: The figures.

    Returns:
        Whether so.

    Example:
        >>> import jax.numpy as jnp
        >>> is_estimated(summarise(jnp.zeros(1000)))
        True
    """
    return all(finding.holds for finding in _by_weights(report))


def _by_weights(report: Report) -> list[Finding]:
    """What the weights of the sampler's own paths say, with the bridge where there is one."""
    # Weights of zero are legitimate, and make the ELBO minus infinity.
    sound = np.isfinite([report.log_z, report.log_z_standard_error]).all() and report.elbo < np.inf
    found = [
        Finding("finite", float(sound), 1.0, bool(sound), "some weights are infinite or not a number, or all are zero")
    ]
    broken = f"{report.nan_share:.1%} of the paths end where the density is not a number, and count as of weight zero"
    found.append(Finding("nan_share", report.nan_share, NAN_SHARE, bool(report.nan_share <= NAN_SHARE), broken))
    limit = _limit(report.paths)
    light = _is_light(report.pareto_k, report.heavy_share, report.paths)
    if report.log_z_of_bridge is None or not sound:
        heavy = f"Pareto k is {report.pareto_k:.2f}, above {limit:.2f}: a few paths carry the estimate"
        found.append(Finding("pareto_k", report.pareto_k, limit, bool(light), heavy))
    few = f"{report.paths} paths are worth only {_count(report.samples)} samples"
    enough = report.samples >= MINIMAL_SAMPLES
    found.append(Finding("samples", report.samples, MINIMAL_SAMPLES, bool(enough), few))
    if report.log_z_of_bridge is not None:
        apart = abs(report.log_z_of_bridge - report.log_z_of_weights)
        limit = max(0.1, 4 * report.log_z_of_weights_standard_error)
        unlike = (
            f"log Z is {report.log_z_of_weights:.3f} by the weights, but {report.log_z_of_bridge:.3f} by the bridge"
        )
        found.append(Finding("bridge", apart, limit, bool(apart <= limit), unlike))
    return found


def _by_other_means(report: Report) -> list[Finding]:
    """What is said by exact samples, by modes and particles found otherwise, and by the density farther out."""
    found, where = [], f", {report.where}" if report.where else ""
    if report.missed_exact is not None:
        share, whose = report.missed_exact, "exact samples"
        found.append(Finding("missed_exact", share, MISSED_EXACT, bool(share <= MISSED_EXACT), _seldom(share, whose)))
    if report.missed_modes is not None:
        share = report.missed_modes
        missed = f"about {share:.1%} of the mass, and so of Z, lies in modes that the paths hardly visit{where}"
        found.append(Finding("missed_modes", share, MISSED_MODES, bool(share <= MISSED_MODES), missed))
    if report.missed_tails is not None:
        share = report.missed_tails
        missed = f"at least {share:.1%} of the mass, and so of Z, lies farther out than any path ends{where}"
        found.append(Finding("missed_tails", share, MISSED_TAILS, bool(share <= MISSED_TAILS), missed))
    if report.escaped is not None:
        share = report.escaped
        missed = f"chains from the samples go on to where no path ends, at least {share:.2%} of the mass{where}"
        found.append(Finding("escaped", share, ESCAPED, bool(share <= ESCAPED), missed))
    if report.missed_mass is not None and report.settled is not False:
        share, missed = report.missed_mass, _seldom(report.missed_mass, "points found by other means") + where
        found.append(Finding("missed_mass", share, MISSED, bool(share <= MISSED), missed))
    return found


def _seldom(share: float, points: str) -> str:
    if not np.isfinite(share):
        return f"the check by {points} failed"
    seldom = "the sampler hardly visits where they are"
    return f"of {points} {share:.1%} have weights that {RARE:.0%} should have: {seldom}"


def _by_other_estimates(report: Report) -> list[Finding]:
    """What other samplers' log Z says, and the truth where it is known."""
    found = []
    if report.log_z_of_another is not None:
        # What a sampler misses makes its estimate too small, hardly ever too large.
        above = report.log_z_of_another - report.log_z
        limit = 4 * math.hypot(report.log_z_standard_error, report.log_z_of_another_standard_error)
        more = f"another sampler found more, log Z {report.log_z_of_another:.3f} instead of {report.log_z:.3f}"
        found.append(Finding("log_z_of_another", above, limit, bool(above <= limit), more))
    if report.log_z_true is not None:
        error = abs(report.log_z - report.log_z_true)
        tolerance = 4 * math.hypot(report.log_z_standard_error, report.log_z_true_error)
        tolerance += 1e-5 * (1 + abs(report.log_z_true))  # rounding
        known = np.isfinite([report.log_z_true, report.log_z_true_error]).all()
        off = (
            f"log Z is off the truth by {error:.3g}" if known else "the true log Z or its error is not a finite number"
        )
        found.append(Finding("error of log Z", error, tolerance, bool(known and error <= tolerance), off))
    return found


def _count(samples: float) -> str:
    return f"{samples:.0f}" if np.isfinite(samples) else "no"


@typed
def verdict(report: Report) -> str:
    """Says to what precision to trust the figures, or why not.

    Args:
        report: The figures.

    Returns:
        A sentence that begins with "Trust" or "Do not trust".

    Example:
        >>> import jax.numpy as jnp
        >>> verdict(summarise(jnp.zeros(1000), log_z_true=1.0))
        'Do not trust log Z and the weighted samples: log Z is off the truth by 1.'
    """
    if reasons := [finding.consequence for finding in findings(report) if not finding.holds]:
        return f"Do not trust log Z and the weighted samples: {'; '.join(reasons)}."
    within = f"Trust log Z to within {max(2 * report.log_z_standard_error, 1e-4):.2g} (two standard errors)"
    worth = f"the weighted samples, worth {report.samples:.0f} independent ones"
    if report.missed_exact is not None:
        return f"{within} and {worth}, also as seen from exact samples."
    caveat = "without exact samples nothing here can show a mode that every path missed"
    if report.missed_mass is not None or report.missed_modes is not None:
        caveat = "a part of the target that neither the paths nor the search by other means found cannot show"
    if report.nan_share > 0:
        caveat += f"; {report.nan_share:.2%} of the paths end where the density is not a number, and count as zero"
    if report.settled is False:
        caveat += "; tempered particles, one of these means, did not arrive at the target, and say nothing"
    return f"{within} and {worth}, for the modes that were found; {caveat}."
