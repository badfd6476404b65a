"""What a set of log weights amounts to: the figures, as data; `dds.trust` says what follows from them."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from dds import estimators
from dds.checks import typed
from dds.types import LogWeights

RARE = 0.01
"""The share of the target that the sampler's paths of the largest weights stand for, as the weights themselves say."""

HEAVY = 0.05
"""The share of the sum of weights in the largest hundredth of them, up to which a heavy tail does not matter."""

VARIANCE, MEAN = 0.5, 1.0
"""The Pareto k above which weights have no variance, and no mean."""

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
        sound = ess >= estimators.POOR and is_reliable(pareto_k, heavy_share, log_weights.size)
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


@typed
def is_reliable(pareto_k: float, heavy_share: float, paths: int) -> bool:
    """Whether the tail of weights allows an estimate: light for so many paths, or it carries next to nothing.

    Args:
        pareto_k: Pareto k.
        heavy_share: The share of the largest hundredth of the weights.
        paths: How many there are.

    Returns:
        Whether so.

    Example:
        >>> is_reliable(0.6, 0.4, 10_000), is_reliable(0.9, 0.4, 10_000)
        (True, False)
    """
    return bool(pareto_k <= estimators.pareto_limit(paths) or heavy_share <= HEAVY)


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
