"""Adapts a mixture, or a product, to a target in rounds of importance sampling: population Monte Carlo.

A round draws from the mixture, weighs, and fits the mixture to the weighted draws. What is kept is the mixture of the
best round. Whoever draws from it next weighs these draws anew, so the adaptation biases nothing.

References: Cappé, Douc, Guillin, Marin and Robert (2008), Adaptive importance sampling in general mixture classes.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dds import devices, estimators, mixtures, modes, normal
from dds.checks import require, typed
from dds.compiling import QUICK, once
from dds.types import Bijection, KeyArray, LogDensity, LogWeights, Mixture, Normal, Product

FLAT = 5
"""The dimension up to which some draws of a mixture come from a wide distribution."""

WIDE = 0.1
"""The share of these draws; of the draws of a product, the share that is wide in some coordinate."""

ADAPTED = 64
"""The most components of a mixture that is adapted, where each takes a matrix."""

ENOUGH = 0.9
"""The effective sample size with which the adaptation ends."""

HEAVIER = 0.02
"""The mean log likelihood, in nats, that heavier tails may cost, where no wide component bounds the weights.

In a product it is divided among the coordinates, whose wide components are normal.
"""

HEAVY, PENALTY = 0.7, 0.1
"""Above this Pareto k the effective sample size of a round is not what it seems, and counts as this part of itself."""

EACH = 20
"""The points, for each coordinate, by which a product is fitted at least: the errors of all coordinates add up."""

SHRINKAGE = 1e-3
"""The shrinkage of `dds.mixtures.fit` for a product: in one dimension many points come to each component."""


class Round(NamedTuple):
    """One round.

    Attributes:
        states: The draws, in the coordinates of the mixture.
        log_weights: Their log weights; those that are not numbers count as zero.
    """

    states: Float[Array, "draws dim"]
    log_weights: LogWeights

    @property
    def ess(self) -> float:
        """The effective sample size, as a fraction; less if the weights have a heavy tail (`HEAVY`)."""
        ess = float(jnp.nan_to_num(estimators.effective_sample_size(self.log_weights)))
        return ess if estimators.pareto_k(self.log_weights) <= HEAVY else PENALTY * ess


Draw: TypeAlias = Callable[[KeyArray, Mixture | Product], Round]
"""What makes a round."""


class Adapted(NamedTuple):
    """What came of it.

    Attributes:
        prior: The mixture, or the product, of the best round.
        ess: Its effective sample size, as a fraction (`Round.ess`).
        evaluations: The number of evaluations of the density.
    """

    prior: Mixture | Product
    ess: float
    evaluations: int


@typed
def rounds(log_density: LogDensity, coordinates: Normal | Bijection, draws: int) -> Draw:
    """What makes rounds of a target in some coordinates.

    Args:
        log_density: The log density, unnormalised.
        coordinates: The coordinates. Those that the mixture leaves out, the last, are drawn from the standard normal.
        draws: The draws of a round, at least 2.

    Returns:
        The function, compiled at its first call.

    Raises:
        ValueError: If there are fewer draws.

    Example:
        >>> draw = rounds(lambda x: -x @ x / 2, normal.standard(2), 100)
        >>> round(
        ...     draw(jax.random.key(0), mixtures.of_normal(normal.standard(2))).ess, 4
        ... )
        1.0
    """
    require(draws >= 2, "draws", draws, "at least 2")
    place, inside = normal.bijection(coordinates), normal.pull_back(coordinates, log_density)
    side_by_side = 512 if isinstance(coordinates, Normal) else modes.side_by_side(512, place.dim)  # a matrix each

    @partial(devices.program, compiler_options=QUICK)
    def draw(key: KeyArray, prior: Mixture | Product) -> Round:
        prior = prior if isinstance(prior, Product) else mixtures.extend(prior, place.dim)
        size, dtype = mixtures.noise_size(prior), jax.tree.leaves(prior)[0].dtype

        def one(key: KeyArray):
            y = mixtures.draw(prior, jax.random.normal(key, (size,), dtype))
            log_w = inside(y) - mixtures.log_density(prior, y)
            return y, jnp.where(jnp.isnan(log_w) | jnp.isposinf(log_w), -jnp.inf, log_w)

        # The noise of a product is large, so it is not made for all at once.
        return Round(*devices.share(one, batch_size=side_by_side)(jax.random.split(key, draws)))

    return draw


@typed
def adapt(
    key: KeyArray, draw: Draw, prior: Mixture | Product, *, wide: Mixture | None = None, most: int = 10
) -> Adapted:
    """Adapts a mixture or a product in rounds, until two in a row bring nothing.

    Up to `FLAT` dimensions a wide component of the mixture takes a tenth of the draws of every round: it bounds the
    weights.

    Args:
        key: The random key.
        draw: What makes a round, of `rounds`.
        prior: What to start from. To a mixture components around its own are added.
        wide: The wide component; by default a normal distribution of six times the covariance of the weighted draws.
        most: The most rounds, at least 1.

    Returns:
        What it came to, how good it is, and what it took.

    Raises:
        ValueError: If `most` is below 1.

    Example:
        >>> draw = rounds(lambda x: -jnp.sum((x - 2) ** 2), normal.standard(2), 1000)
        >>> adapt(
        ...     jax.random.key(0), draw, mixtures.of_normal(normal.standard(2))
        ... ).ess > 0.8
        True
    """
    require(most >= 1, "most", most, "at least 1")
    if isinstance(prior, Mixture):
        dim = prior.means.shape[1]
        prior = _spread(jax.random.fold_in(key, most), prior, 8 if dim <= 3 else 4 if dim <= 10 else 2)
    best, stale = Adapted(prior, -1.0, 0), 0
    for i in range(most):
        drawn = draw(jax.random.fold_in(key, i), prior)
        ess = drawn.ess
        stale = 0 if ess > 1.1 * best.ess + 0.002 else stale + 1
        evaluations = best.evaluations + len(drawn.log_weights)
        best = (Adapted(prior, ess, 0) if ess > best.ess else best)._replace(evaluations=evaluations)
        if stale == 2 or best.ess >= ENOUGH:
            break
        if isinstance(prior, Product):
            least = max(200, EACH * drawn.states.shape[1])
            prior = _improve_product(prior, drawn.states, _flattened(drawn.log_weights, least))
            continue
        count, dim = prior.means.shape
        if count > ADAPTED and prior.freedom.ndim == 0:
            break
        prior = _improve(prior, drawn.states[:, :dim], _flattened(drawn.log_weights, 200 + 5 * dim), wide)
    return best


@partial(once, static_argnums=2)
def _spread(key: KeyArray, mixture: Mixture, count: int) -> Mixture:
    """A mixture with at least so many components: the further ones lie around its own, and some are wider."""
    more, dim = count - len(mixture.means), mixture.means.shape[1]
    if more <= 0:
        return mixture
    chosen = jnp.arange(more) % len(mixture.means)
    means, scales = mixture.means[chosen], mixture.scales[chosen]
    if dim <= 3:  # in more dimensions a component beside the target is of no use
        away = 1.5 * jax.random.normal(key, (more, dim), means.dtype)
        means = means + jnp.einsum("cij,cj->ci", scales, away)
    widths = jnp.asarray([1.5, 1, 1, 3], means.dtype)[jnp.arange(more) % 4]
    log_shares = jnp.full(more, -jnp.log(more), means.dtype)
    return mixtures.join(mixture, Mixture(log_shares, means, widths[:, None, None] * scales, mixture.freedom), 0.4)


@once
def _improve(mixture: Mixture, points: Array, weights: Array, wide: Mixture | None) -> Mixture:
    """The mixture fitted to weighted points; in few dimensions its lightest component makes way for the wide one."""
    count, dim = mixture.means.shape
    # Without a wide component the tails are what bounds the weights: too heavy costs little, too light everything.
    heavier = 0.0 if dim <= FLAT else HEAVIER
    mixture = mixtures.fit(mixture, points, weights, iterations=3, heavier=heavier)
    if dim > FLAT or count < 2:
        return mixture
    if wide is None:
        mean = weights @ points
        away = points - mean[None]
        covariance = 6.0 * (weights[None] * away.T) @ away + 1e-6 * jnp.eye(dim, dtype=points.dtype)
        wide = mixtures.of_normal(Normal(mean, jnp.linalg.cholesky(covariance)))
    return _replace_lightest(mixture, wide, WIDE)


@once
def _improve_product(product: Product, points: Array, weights: Array) -> Product:
    """The product fitted to weighted points; in each factor the lightest component makes way for a wide one."""
    dim = points.shape[1]
    how = {"shrinkage": SHRINKAGE, "heavier": HEAVIER / dim}
    factors = mixtures.fit(product, points, weights, iterations=3, **how).factors
    points = mixtures.turn(product, points)
    mean = weights @ points
    spread = 3 * jnp.sqrt(weights @ (points - mean[None]) ** 2)

    def widened(factor: Mixture, mean: Array, spread: Array) -> Mixture:
        wide = mixtures.of_normal(Normal(mean[None], spread))
        return _replace_lightest(factor, wide, WIDE / dim)

    return product._replace(factors=jax.vmap(widened)(factors, mean, spread))


def _replace_lightest(mixture: Mixture, other: Mixture, share: float) -> Mixture:
    kept = jnp.argsort(-mixture.log_shares)[:-1]
    log_shares = jax.nn.log_softmax(mixture.log_shares[kept])
    kept = Mixture(log_shares, mixture.means[kept], mixture.scales[kept], mixture.freedom)
    return mixtures.join(kept, other, share)


def _flattened(log_weights: LogWeights, least: int) -> Array:
    """Normalised weights, to a power at which they are worth so many points at least."""
    log_weights = jnp.maximum(log_weights, jnp.max(log_weights) - 1e4)
    power = 1.0
    while power > 0.01 and float(estimators.effective_sample_size(power * log_weights)) * log_weights.size < least:
        power *= 0.8
    return jax.nn.softmax(power * log_weights)
