r"""What log weights tell: $\log Z$, bounds on it, how many samples they are worth, and corrected samples.

All take the log weights of independent paths. Over paths of the sampler $\mathbb E[w] = Z$; over paths noised from
exact samples of the target $\mathbb E[1/w] = 1/Z$, and these also see the modes that the sampler misses.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from dds.checks import require, require_values, typed
from dds.types import KeyArray, LogWeights, Scalar

LEAST = 25
"""The fewest weights that have a tail to fit: its largest fifth, five of them or more."""

POOR = 0.1
"""The effective sample size below which weights alone are not relied on, however many there are."""

ROUNDING = 1e-3
"""The largest difference of log weights that are the same but for rounding."""


class Estimate(NamedTuple):
    """An estimate with its standard error.

    Attributes:
        value: The estimate.
        standard_error: Its standard error.
    """

    value: Scalar
    standard_error: Scalar


@typed
def log_z(log_weights: LogWeights) -> Estimate:
    r"""The log normalising constant, $\log \frac1N \sum_n w_n$: consistent, and a lower bound on average.

    Args:
        log_weights: Log weights of paths of the sampler.

    Returns:
        The estimate; its standard error is that of the mean weight, relative to it (delta method). It is an
        underestimate where the weights are heavy-tailed: see `pareto_k`.

    Example:
        >>> estimate = log_z(jnp.array([0.0, jnp.log(3.0)]))
        >>> (
        ...     round(float(jnp.exp(estimate.value)), 4),
        ...     round(float(estimate.standard_error), 4),
        ... )
        (2.0, 0.5)
    """
    return _log_z(log_weights)


@jax.jit
def _log_z(log_weights: LogWeights) -> Estimate:
    paths = log_weights.size
    value = jax.nn.logsumexp(log_weights) - jnp.log(paths)
    return Estimate(value, jnp.std(jnp.exp(log_weights - value), ddof=1) / jnp.sqrt(paths))


@typed
def elbo(log_weights: LogWeights) -> Estimate:
    r"""The evidence lower bound, $\mathbb E[\log w] \le \log Z$.

    Args:
        log_weights: Log weights of paths of the sampler.

    Returns:
        The mean and its standard error.

    References:
        Vargas, Grathwohl and Doucet (2023), section 3.

    Example:
        >>> float(elbo(jnp.array([-1.0, -3.0])).value)
        -2.0
    """
    return _elbo(log_weights)


@jax.jit
def _elbo(log_weights: LogWeights) -> Estimate:
    return Estimate(jnp.mean(log_weights), jnp.std(log_weights, ddof=1) / jnp.sqrt(log_weights.size))


@typed
def eubo(log_weights: LogWeights) -> Estimate:
    r"""The evidence upper bound, $\mathbb E_{\text{target}}[\log w] \ge \log Z$.

    Args:
        log_weights: Log weights of paths noised from exact samples of the target, as `dds.paths.noise_path` draws them.

    Returns:
        The mean and its standard error.

    References:
        Blessing, Jia, Esslinger, Vargas and Neumann (2024), section 3.

    Example:
        >>> float(eubo(jnp.array([1.0, 3.0])).value)
        2.0
    """
    return elbo(log_weights)


@typed
def bridge(log_weights: LogWeights, backward: Float[Array | np.ndarray, " backward"]) -> Estimate:
    r"""Bennett's acceptance ratio: the best estimate of $\log Z$ of paths of the sampler and paths of the target.

    It solves, with $n$ paths of the sampler and $m$ of the target,

    $$ \sum_{i \le n} \frac{1}{1 + \frac{n}{m} Z / w_i} = \sum_{j \le m} \frac{1}{1 + \frac{m}{n} w_j / Z}, $$

    and takes from each side what it knows best: neither the heaviest weights of the sampler's paths nor those that it
    never sees have much to say. It is as right as the points of the target are.

    Args:
        log_weights: Log weights of paths of the sampler.
        backward: Log weights of paths of the target: noised from its points, or refined in their noise
            (`dds.smc.refine`).

    Returns:
        The estimate; its standard error takes the paths as independent.

    References:
        Bennett (1976); Meng and Wong (1996), section 3, for the choice of the bridge.

    Example:
        >>> round(float(bridge(jnp.full(10, 2.0), jnp.full(30, 2.0)).value), 4)
        2.0
    """
    forward, backward = jnp.asarray(log_weights), jnp.asarray(backward)
    ratio = jnp.log(forward.size / backward.size)

    def sides(log_z: Array) -> tuple[Array, Array]:
        ahead = jax.nn.sigmoid(forward - log_z - ratio)
        back = jax.nn.sigmoid(ratio + log_z - backward)
        return ahead, back

    def halve(_, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        ahead, back = sides(middle)
        too_low = jnp.sum(ahead) > jnp.sum(back)
        return jnp.where(too_low, middle, low), jnp.where(too_low, high, middle)

    finite = jnp.concatenate([jnp.where(jnp.isfinite(w), w, jnp.nan) for w in (forward, backward)])
    bounds = (jnp.nanmin(finite) - jnp.abs(ratio) - 1, jnp.nanmax(finite) + jnp.abs(ratio) + 1)
    value = jnp.mean(jnp.stack(jax.lax.fori_loop(0, 60, halve, bounds)))
    errors = [jnp.var(side, ddof=1) / (side.size * jnp.mean(side) ** 2) for side in sides(value)]
    return Estimate(value, jnp.sqrt(errors[0] + errors[1]))


@typed
def pool(
    log_weights: LogWeights, backward: Float[Array | np.ndarray, " backward"], log_z: Scalar
) -> Float[Array, " all"]:
    r"""Log weights of both kinds of paths taken together, $\log \frac{(n + m)\, w}{n + m\, w / Z}$.

    A weight is at most $(n + m) Z / m$: where the sampler has too few paths, those of the target take over. With the
    estimate of `bridge` as $Z$ the mean weight is $Z$.

    Args:
        log_weights: Log weights of paths of the sampler.
        backward: Log weights of paths of the target.
        log_z: The estimate of $\log Z$.

    Returns:
        The log weights, first those of the sampler's paths.

    References:
        Shirts and Chodera (2008), Multistate Bennett acceptance ratio, section 3.

    Example:
        >>> pool(jnp.zeros(2), jnp.zeros(2), jnp.zeros(())).tolist()
        [0.0, 0.0, 0.0, 0.0]
    """
    both = jnp.concatenate([jnp.asarray(log_weights), jnp.asarray(backward)])
    n, m = log_weights.size, backward.size
    return jnp.log(n + m) - jnp.logaddexp(jnp.log(n) - both, jnp.log(m) - log_z)


@typed
def effective_sample_size(log_weights: LogWeights) -> Scalar:
    r"""The effective sample size of the sampler's paths, as a fraction: $(\sum w)^2 / (N \sum w^2)$.

    A sampler that misses a mode does not see the weights that it should have had there: its fraction can be near one.

    Args:
        log_weights: Log weights of paths of the sampler.

    Returns:
        The fraction, in (0, 1].

    Example:
        >>> round(float(effective_sample_size(jnp.zeros(5))), 4)
        1.0
    """
    return _effective_sample_size(log_weights)


@jax.jit
def _effective_sample_size(log_weights: LogWeights) -> Scalar:
    relative = _relative(log_weights)
    return jnp.exp(2 * jax.nn.logsumexp(relative) - jax.nn.logsumexp(2 * relative)) / relative.size


@typed
def forward_effective_sample_size(log_weights: LogWeights) -> Scalar:
    r"""The same fraction seen from the target, $N^2 / \left(\sum w \sum 1/w\right)$: a missed mode brings it to zero.

    Args:
        log_weights: Log weights of paths noised from exact samples of the target.

    Returns:
        The fraction, in (0, 1].

    References:
        Blessing, Jia, Esslinger, Vargas and Neumann (2024), section 3.

    Example:
        >>> round(float(forward_effective_sample_size(jnp.zeros(5))), 4)
        1.0
    """
    return _forward_effective_sample_size(log_weights)


@jax.jit
def _forward_effective_sample_size(log_weights: LogWeights) -> Scalar:
    relative = _relative(log_weights)
    log_mean, log_mean_inverse = (jax.nn.logsumexp(sign * relative) - jnp.log(relative.size) for sign in (1, -1))
    return jnp.exp(-log_mean - log_mean_inverse)


def _relative(log_weights: LogWeights) -> Array:
    """Log weights relative to the largest: a constant that the density lacks, often large, would cost digits."""
    return jnp.asarray(log_weights) - jnp.max(log_weights)


@typed
def resample(key: KeyArray, log_weights: LogWeights, count: int) -> Int[Array, " count"]:
    """Draws indices of paths in proportion to their weights, by systematic resampling.

    Args:
        key: The random key.
        log_weights: Log weights of paths of the sampler.
        count: How many to draw, at least 1.

    Returns:
        The indices, in increasing order.

    Raises:
        ValueError: If `count` is below 1, or, outside of compiled code, if a log weight is not a number or `inf`, or
            all are `-inf`.

    References:
        Douc, Cappe and Moulines (2005), section 2.4.

    Example:
        >>> resample(jax.random.key(0), jnp.log(jnp.array([0.25, 0.75])), 4).tolist()
        [0, 1, 1, 1]
    """
    require(count >= 1, "count", count, "at least 1")
    require_values(lambda w: ~np.isnan(w) & (w < np.inf), "log_weights", log_weights, "numbers below infinity")
    require_values(lambda w: np.isfinite(w).any() | ~np.isneginf(w), "log_weights", log_weights, "somewhere finite")
    offset = jax.random.uniform(key, (), jnp.result_type(log_weights))
    if isinstance(log_weights, Tracer) or isinstance(offset, Tracer):
        return _systematic(jnp, offset, log_weights, count)
    # Outside of compiled code it takes longer to compile than to do.
    return jnp.asarray(_systematic(np, np.asarray(offset), np.asarray(log_weights, np.float64), count))


def _systematic(numpy: Any, offset: Any, log_weights: Any, count: int) -> Any:
    cumulative = numpy.cumsum(numpy.exp(log_weights - numpy.max(log_weights)))
    positions = (numpy.arange(count) + offset) / count
    return numpy.searchsorted(cumulative / cumulative[-1], positions, side="right").clip(0, log_weights.size - 1)


@typed
def pareto_k(log_weights: LogWeights) -> float:
    """The shape of the generalised Pareto distribution that fits the largest weights: how heavy their tail is.

    Below 0.5 the weights have a variance; up to 0.7 estimates are usable; above, neither `log_z` nor its standard
    error can be trusted. It sees only tails that the sampler reaches. Weights of zero have no part in it. Outside of
    compiled code.

    Args:
        log_weights: Log weights of `LEAST` or more paths of the sampler.

    Returns:
        The shape; `-inf` where the largest weights are all the same but for rounding; `inf` where a weight is infinite
        or not a number, or where too few are above zero, or carry all, to fit a tail.

    Raises:
        ValueError: If there are fewer.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), section 3.

    Example:
        >>> pareto_k(jnp.log(jnp.arange(1.0, 1001.0))) < 0.5
        True
    """
    require(log_weights.size >= LEAST, "log_weights", f"{log_weights.size} of them", f"{LEAST} or more")
    values = np.asarray(log_weights, dtype=np.float64)
    if np.isnan(values).any() or np.isposinf(values).any() or np.isneginf(values).all():
        return float("inf")
    with np.errstate(over="ignore"):
        relative = np.sort(values - np.max(values))
    relative = relative[np.exp(relative) > 0]
    shares = np.exp(relative)
    # Fewer are above zero, or carry all, than it takes to fit a tail.
    if relative.size < LEAST or np.sum(shares) ** 2 < LEAST // 5 * np.sum(shares**2):
        return float("inf")
    tail = relative.size // 5 if relative.size <= 225 else int(3 * np.sqrt(relative.size))
    if relative[-tail] > -ROUNDING:  # as of a density that is flat in its support, or is the sampler's own
        return float("-inf")
    return _pareto_shape(np.exp(relative[-tail:]) - np.exp(relative[-tail - 1]))


@typed
def pareto_limit(paths: int) -> float:
    r"""The largest Pareto k with which so many paths give an estimate, $\min(1 - 1 / \log_{10} N, 0.7)$.

    Args:
        paths: How many, $N$.

    Returns:
        The limit.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), section 3.2.4.

    Example:
        >>> round(pareto_limit(1000), 3), pareto_limit(100_000)
        (0.667, 0.7)
    """
    return float(min(1 - 1 / np.log10(max(paths, 11)), 0.7))


def _pareto_shape(excesses: Float[np.ndarray, " tail"]) -> float:
    r"""The shape of a generalised Pareto distribution, by the mean of its profile likelihood.

    With $\theta = -k / \sigma$ the likelihood, maximised over $k$, is that of $k(\theta)$, the mean of
    $\log (1 - \theta x)$. The mean of $\theta$ over a grid that suits the data, weighted by this likelihood, gives
    $k$, and ten observations of a half draw it towards a half (Zhang and Stephens, 2009, equations 6 to 8; Vehtari,
    Simpson, Gelman, Yao and Gabry, 2024, appendix C).

    Args:
        excesses: How far the values lie above a threshold, in increasing order.
    """
    n = excesses.size
    points = 30 + int(np.sqrt(n))
    positive = excesses[np.searchsorted(excesses, 0, side="right")]
    quartile = max(excesses[int(n / 4 + 0.5) - 1], positive)
    with np.errstate(divide="ignore", invalid="ignore"):  # weights of which all but a few are equal
        grid = 1 / excesses[-1] + (1 - np.sqrt(points / (np.arange(points) + 0.5))) / (3 * quartile)
        shapes = np.log1p(-grid[:, None] * excesses).mean(axis=1)
        likelihoods = n * (np.log(-grid / shapes) - shapes - 1)
        weights = np.exp(likelihoods - likelihoods.max())
        k = np.log1p(-(weights @ grid / weights.sum()) * excesses).mean()
    return float("inf") if np.isnan(k) else float((n * k + 5) / (n + 10))
