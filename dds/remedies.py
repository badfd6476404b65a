"""What is done where draws from what `dds.search.search` found are not enough.

`extend` adds a component for points that are missed, `widen` for mass farther out than any draw; `straighten` adapts
all the coordinates of a neck, and `temper` fits a product or a mixture to tempered particles. Each keeps what comes of
it only if it is good.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import adaptation, conditional, coordinates, mixtures, modes, normal, smc, tails
from dds.checks import typed
from dds.compiling import in_batches, once, split
from dds.estimators import POOR
from dds.search import DRAWS, GOOD, Found, with_prior
from dds.types import KeyArray, LogDensity, Mixture, Normal, Product

SHARE = 0.2
"""The share of the draws that such a component has at first."""

WIDENED = 3
"""How often components are added, at most: each time for the stretch that finds most."""

PARTICLES = 4000
"""The number of tempered particles that a mixture is fitted to."""

PARTS = 8
"""The particles, for each coordinate, that a component of it has on average, unless these are but eight components."""

ENOUGH = 0.001
"""The share of the target farther out below which no component is added for it."""


@typed
def extend(
    key: KeyArray, log_density: LogDensity, found: Found, points: Float[Array | np.ndarray, "missed dim"]
) -> Found:
    """What was found, with a component for points that it misses, adapted again.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        found: What was found.
        points: The points.

    Returns:
        What was found; the same if there is a neck, if there are few points, or if nothing good comes of them.

    Example:
        >>> from dds import search, targets
        >>> mixture = targets.gaussian_mixture(
        ...     jnp.zeros((2, 2)), jnp.array([0.03, 1.0])
        ... )
        >>> narrow = search.search(
        ...     jax.random.key(0),
        ...     targets.gaussian(jnp.zeros(2), 0.03**2 * jnp.eye(2)).log_density,
        ...     Normal(jnp.zeros(2), jnp.array(0.03)),
        ... )
        >>> points = jax.random.normal(jax.random.key(1), (50, 2))
        >>> extend(
        ...     jax.random.key(2), mixture.log_density, narrow, points
        ... ).finding.endswith("tempered particles")
        True
    """
    place = found.coordinates
    if found.neck is not None or isinstance(found.prior, Product) or len(place.mean) > modes.DENSE or len(points) < 10:
        return found
    inside = jax.vmap(partial(normal.standardise, place))(jnp.asarray(points))
    adapted = adaptation.adapt(key, adaptation.rounds(log_density, place, DRAWS), _joined(found.prior, inside, 0.5))
    finding = f"{found.finding}, and a component around tempered particles"
    # The effective sample size of before is that of a part of the target: it is not to be compared with.
    return with_prior(found, adapted, POOR, finding=finding)


@typed
def straighten(key: KeyArray, log_density: LogDensity, found: Found) -> Found:
    """What was found, with a prior adapted in all the coordinates of a neck: in the search only few of them are.

    It is for where the others are not nearly normal given these, as with a second, weaker neck among them.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        found: What was found.

    Returns:
        What was found; the same without a neck.

    Example:
        >>> from dds import search, targets
        >>> target = targets.funnel(4)
        >>> found = search.search(jax.random.key(0), target.log_density, target.start)
        >>> straighten(jax.random.key(1), target.log_density, found).prior.means.shape[
        ...     1
        ... ]
        4
    """
    if found.neck is None:
        return found
    place = conditional.bijection(found.neck)
    assert isinstance(found.prior, Mixture)
    prior = mixtures.extend(found.prior, place.dim)
    adapted = adaptation.adapt(key, adaptation.rounds(log_density, place, DRAWS), prior)
    finding = f"{found.finding}, and a mixture in all coordinates"
    # Few draws make it seem better than it is: it is not compared with what there was.
    return with_prior(found, adapted, POOR, finding=finding)


@typed
def widen(key: KeyArray, log_density: LogDensity, found: Found) -> Found:
    """What was found, with components for what lies farther out than draws from it (`dds.tails`), adapted again.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        found: What was found.

    Returns:
        What was found; the same above `dds.modes.DENSE` dimensions, or if nothing is farther out.

    Example:
        >>> from dds import search
        >>> def cauchy(x):
        ...     return -jnp.sum(jnp.log1p(x**2))
        >>> found = search.search(jax.random.key(0), cauchy, normal.standard(1))
        >>> widen(jax.random.key(1), cauchy, found).ess > 0.5
        True
    """
    fit, finding = found.coordinates, f"{found.finding}, widened"
    dim = fit.mean.size
    if dim > modes.DENSE:
        return found
    place = normal.bijection(fit if found.neck is None else conditional.bijection(found.neck))
    inside, draw = normal.pull_back(place, log_density), adaptation.rounds(log_density, place, DRAWS)

    @once
    def weigh(prior: Mixture | Product, states: Array) -> Array:
        return in_batches(lambda y: inside(y) - mixtures.log_density(prior, y), 512)(states)

    for i in range(WIDENED):
        draw_key, far_key, adapt_key = split(jax.random.fold_in(key, i), 3)
        drawn, prior = draw(draw_key, found.prior), found.prior
        prior = prior if isinstance(prior, Product) else mixtures.extend(prior, dim)
        weigh_states = partial(weigh, prior)
        far = tails.beyond(far_key, inside, normal.standard(dim), weigh_states, drawn.states, drawn.log_weights)
        found = found._replace(evaluations=found.evaluations + DRAWS + far.evaluations + far.weighed)
        if far.share <= ENOUGH:
            break
        # A round in which a product is adapted drops the lightest component of each coordinate: that is the new one.
        most = 1 if isinstance(found.prior, Product) else 10
        adapted = adaptation.adapt(adapt_key, draw, _joined(found.prior, far.points, SHARE), most=most)
        found = with_prior(found, adapted, POOR, finding=finding)
    return found


def _joined(
    prior: Mixture | Product, points: Float[Array | np.ndarray, "points dim"], share: float
) -> Mixture | Product:
    """A prior with a component for points, for a share of the draws; in a product a part of it in each factor."""
    points = jnp.asarray(points)
    points = mixtures.turn(prior, points) if isinstance(prior, Product) else points
    mean, scale = jnp.mean(points, axis=0), jnp.std(points, axis=0) + 1e-6
    if isinstance(prior, Product):
        parts = jax.vmap(lambda mean, scale: mixtures.of_normal(Normal(mean[None], scale)))(mean, scale)
        return prior._replace(factors=jax.vmap(partial(mixtures.join, share=share / len(mean)))(prior.factors, parts))
    few = prior.means.shape[1]
    return mixtures.join(prior, mixtures.of_normal(Normal(mean[:few], scale[:few])), share)


@typed
def temper(key: KeyArray, log_density: LogDensity, start: Normal, found: Found) -> Found:
    """What was found, with a product (`dds.types.Product`) or a mixture adapted to tempered particles, if it is better.

    The product is one of the coordinates, and where that is not good, of independent components of them.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        start: Where to look.
        found: What was found.

    Returns:
        What was found; the same if the density is not cheap (`dds.coordinates.is_cheap`), if there is a neck, which
        particles do not pass, if they do not arrive, or if nothing better comes of them. Above `dds.modes.DENSE`
        dimensions only a product is tried.

    Example:
        >>> from dds import search, targets
        >>> target = targets.many_well(4)
        >>> found = search.search(jax.random.key(0), target.log_density, target.start)
        >>> temper(
        ...     jax.random.key(1),
        ...     target.log_density,
        ...     target.start,
        ...     found._replace(ess=0.0),
        ... ).finding
        '4 modes; tempered particles, with a mixture for each coordinate'
    """
    dim, dtype = start.mean.size, start.mean.dtype
    if found.neck is not None or not coordinates.is_cheap(log_density, start):
        return found
    temper_key, product_key, mixture_key, component_key = split(key, 4)
    count = PARTICLES if dim <= modes.DENSE else adaptation.EACH * dim
    particles = smc.temper(temper_key, log_density, start, count, settling=8)
    found = found._replace(evaluations=found.evaluations + particles.evaluations)
    if not particles.settled:  # as of a density without an integral, which they follow to infinity
        return found
    points, before = particles.points, found.finding
    equal = jnp.full(len(points), 1 / len(points), dtype)

    def adapted_to(key: KeyArray, place: Normal, prior: Mixture | Product, draws: int, found: Found, how: str) -> Found:
        adapted = adaptation.adapt(key, adaptation.rounds(log_density, place, draws), prior)
        changes = {"coordinates": place, "fitted": True}
        finding = f"{before}; tempered particles, with {how}"
        return with_prior(found, adapted, 1.2 * found.ess, finding=finding, **changes)

    def with_product(key: KeyArray, place: Normal, rotation: Array | None, found: Found, each: str) -> Found:
        inside = jax.vmap(partial(normal.standardise, place))(points)
        product = mixtures.product(inside if rotation is None else inside @ rotation.T)._replace(rotation=rotation)
        product = mixtures.fit(product, inside, equal, iterations=20, shrinkage=adaptation.SHRINKAGE)
        product = _joined(product, 3 * inside, adaptation.WIDE)
        return adapted_to(
            key, place, product, max(DRAWS, 4 * adaptation.EACH * dim), found, f"a mixture for each {each}"
        )

    place = Normal(jnp.mean(points, axis=0), jnp.std(points, axis=0))
    if dim > 1 and float(jnp.min(place.scale)) > 0:
        found = with_product(product_key, place, None, found, "coordinate")
    if found.ess > GOOD or dim > modes.DENSE:
        return found
    try:
        place = coordinates.moments(points)
    except ValueError:  # they lie in a plane, or there are too few of them
        return found
    inside = jax.vmap(partial(normal.standardise, place))(points)
    if dim > 1:
        rotation = coordinates.independent(inside)
        found = with_product(component_key, place, rotation, found, "independent component")
    if found.ess > GOOD:
        return found
    # Modes are seldom normal: several components for each draw from it more evenly than one.
    parts = min(max(count // (PARTS * dim), 8), adaptation.ADAPTED)
    means = inside[:: count // parts][:parts]  # side by side may lie copies of one particle
    scales = jnp.broadcast_to(0.3 * jnp.eye(dim, dtype=dtype), (parts, dim, dim))
    mixture = Mixture(jnp.full(parts, -jnp.log(parts), dtype), means, scales, jnp.asarray(jnp.inf, dtype))
    mixture = mixtures.fit(mixture, inside, equal, iterations=20)
    return adapted_to(mixture_key, place, mixture, max(DRAWS, 256 * parts), found, "a mixture")
