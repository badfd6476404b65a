r"""How far samples are from a distribution that is known: by exact samples, or by its modes.

For tests and comparisons: of a target that is not known there is nothing to compare with, and `dds.evaluation` says
what can be said.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds.checks import require, require_values, typed
from dds.types import Arrays, Scalar


@typed
def squared_mmd(
    samples: Float[Arrays, "samples dim"],
    exact: Float[Arrays, "exact dim"],
    *,
    bandwidths: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0),
) -> Scalar:
    r"""The squared maximum mean discrepancy of two sets of samples.

    It is $\mathbb E[k(x, x')] + \mathbb E[k(y, y')] - 2\,\mathbb E[k(x, y)]$, for samples $x$ and exact ones $y$. The
    kernel $k$ is the mean of Gaussian ones, whose bandwidths are multiples of the median distance of the exact samples.

    Args:
        samples: The samples, of equal weight, two or more.
        exact: Exact samples, two or more.
        bandwidths: The multiples, positive.

    Returns:
        The estimate without bias: of two sets from one distribution its mean is zero, so it can be negative.

    Raises:
        ValueError: If there are fewer than two samples of either kind, or a bandwidth is not positive.

    References:
        Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), section 2.2.

    Example:
        >>> x, y, z = jax.random.normal(jax.random.key(0), (3, 500, 2))
        >>> bool(squared_mmd(x, y) < 0.01 < squared_mmd(x + 1, z))
        True
    """
    for name, points in (("samples", samples), ("exact", exact)):
        require(len(points) >= 2, name, f"{len(points)} of them", "two or more")
    require(len(bandwidths) >= 1, "bandwidths", "none", "one or more")
    require_values(lambda b: b > 0, "bandwidths", jnp.asarray(bandwidths), "positive")
    x, y = jnp.asarray(samples), jnp.asarray(exact)
    own = _squared_distances(y, y)
    unit = jnp.median(own[jnp.triu_indices(len(y), 1)])

    def mean_kernel(squares: Float[Array, "one other"], is_own: bool) -> Scalar:
        values = jnp.mean(jnp.stack([jnp.exp(-squares / (2 * b**2 * unit)) for b in bandwidths]), axis=0)
        count = len(values)
        return (jnp.sum(values) - jnp.trace(values)) / (count * (count - 1)) if is_own else jnp.mean(values)

    both = mean_kernel(_squared_distances(x, x), True) + mean_kernel(own, True)
    return both - 2 * mean_kernel(_squared_distances(x, y), False)


@typed
def wasserstein(samples: Float[Arrays, " samples"], exact: Float[Arrays, " exact"]) -> Scalar:
    r"""The Wasserstein distance of order two of numbers, as the energies or the distances of particles.

    $$ W_2 = \Bigl(\int_0^1 \bigl(F^{-1}(u) - G^{-1}(u)\bigr)^2\,du\Bigr)^{1/2}, $$

    with the quantiles of both. It has the unit of the numbers.

    Args:
        samples: The samples, of equal weight, one or more.
        exact: Exact ones, as many or not, one or more.

    Returns:
        The distance: of two sets from one distribution it is not zero, but falls with their numbers.

    Raises:
        ValueError: If there are no samples of either kind.

    References:
        Peyré and Cuturi (2019), Computational Optimal Transport, remark 2.30.

    Example:
        >>> x = jnp.arange(4.0)
        >>> float(wasserstein(x, x + 3.0)), round(float(wasserstein(x, x[::2])), 4)
        (3.0, 0.7071)
    """
    counts = len(samples), len(exact)
    for name, count in zip(("samples", "exact"), counts, strict=True):
        require(count >= 1, name, "none of them", "one or more")
    # Both quantiles are constant between these levels, of which there are as many as numbers, or fewer.
    levels = np.unique(np.concatenate([np.arange(count + 1) / count for count in counts]))
    middles, widths = (levels[1:] + levels[:-1]) / 2, jnp.asarray(np.diff(levels))
    x, y = (
        jnp.sort(jnp.asarray(numbers))[(middles * count).astype(int)]
        for numbers, count in zip((samples, exact), counts, strict=True)
    )
    return jnp.sqrt(jnp.sum(widths.astype(x.dtype) * (x - y) ** 2))


@typed
def mode_shares(
    samples: Float[Arrays, "samples dim"],
    means: Float[Arrays, "modes dim"],
    log_weights: Float[Arrays, " samples"] | None = None,
) -> Float[Array, " modes"]:
    """The share of samples that is nearest to each mode.

    Args:
        samples: The samples.
        means: The middle of each mode.
        log_weights: The log weights of the samples; equal by default.

    Returns:
        The shares.

    Example:
        >>> mode_shares(jnp.array([[-3.0], [2.0], [4.0]]), jnp.array([[-3.0], [3.0]]))
        Array([0.33333334, 0.6666667 ], dtype=float32)
    """
    x = jnp.asarray(samples)
    nearest = jnp.argmin(_squared_distances(x, jnp.asarray(means)), axis=1)
    weights = jnp.ones(len(x)) if log_weights is None else jnp.exp(log_weights - jnp.max(log_weights))
    return jnp.bincount(nearest, weights / jnp.sum(weights), length=len(means))


@typed
def entropic_coverage(shares: Float[Arrays, " modes"]) -> Scalar:
    r"""How evenly modes are covered, $-\sum_j s_j \log s_j / \log J$: 1 if all alike, 0 if one has everything.

    Args:
        shares: The shares of two or more modes, of `mode_shares`.

    Returns:
        The coverage.

    Raises:
        ValueError: If there are fewer than two modes.

    References:
        Blessing, Jia, Esslinger, Vargas and Neumann (2024), section 4.

    Example:
        >>> [float(entropic_coverage(jnp.array(s))) for s in ([0.5, 0.5], [1.0, 0.0])]
        [1.0, 0.0]
    """
    require(len(shares) >= 2, "shares", f"{len(shares)} of them", "two or more")
    shares = jnp.asarray(shares)
    return jnp.sum(jax.scipy.special.entr(shares)) / jnp.log(len(shares))


@typed
def total_variation(shares: Float[Arrays, " modes"], exact: Float[Arrays, " modes"]) -> Scalar:
    r"""The total variation distance of two distributions over modes, $\frac12 \sum_j \lvert s_j - p_j \rvert$.

    Args:
        shares: The shares of samples, of `mode_shares`.
        exact: The true shares.

    Returns:
        The distance, from 0 to 1.

    Example:
        >>> float(total_variation(jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5])))
        0.25
    """
    return 0.5 * jnp.sum(jnp.abs(jnp.asarray(shares) - jnp.asarray(exact)))


def _squared_distances(x: Float[Array, "one dim"], y: Float[Array, "other dim"]) -> Float[Array, "one other"]:
    """By differences, one coordinate at a time: the difference of squares would lose all digits far out."""
    return jax.lax.scan(
        lambda total, pair: (total + (pair[0][:, None] - pair[1][None]) ** 2, None),
        jnp.zeros((len(x), len(y)), x.dtype),
        (x.T, y.T),
    )[0]
