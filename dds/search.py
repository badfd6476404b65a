"""Looks at a target before anything is trained: modes, a normal fit, a neck, and a distribution to draw from.

What it finds is data, `Found`: coordinates and a prior with which `dds.families.importance` is a sampler already. How
good it is its effective sample size says; `dds.recipes.ladder` goes on from there. `explore` looks a second time, from
other starts and by other means, for what `dds.evaluation` checks a sampler by.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import conditional, coordinates, estimators, mixtures, modes, normal, smc
from dds.checks import typed
from dds.compiling import noise, once
from dds.modes import Modes
from dds.types import Bijection, KeyArray, LogDensity, Mixture, Normal

DENSE = 128
"""The dimension up to which many climbs are made, Hessians averaged, and particles tempered."""

CURVED = 64
"""The dimension up to which third derivatives are looked at."""

RELEVANT = 12.0
"""A mode whose log mass is farther than this below the largest is left out."""

APART = 5.0
"""A mode at which the density is this much higher, in nats, than a fit says, is another mode than that of the fit."""

DRAWS = 4096
"""The draws of a round in which a prior is adapted."""

LISTED = 0.1
"""The share of climbs to new modes above which it is not tried to list them."""

COMPONENTS = 512
"""The most modes at which a sampler is checked, and the most components of a mixture: fewer above 16 dimensions."""

ADAPTED = 64
"""The most components of a mixture that is adapted."""

CHEAP = 2**18
"""The most evaluations of the density that draws of a sampler may cost without further ado."""

BRANCHES = 4
"""The most modes with which it is asked whether they are but the neck of one."""

FLAT = 5
"""The dimension up to which a tenth of the draws come from a wide distribution."""

GOOD = 0.5
"""The effective sample size in the coordinates of a neck with which the search ends."""

EXPLORERS = 400
"""The number of tempered particles that are asked what a sampler missed."""


class Found(NamedTuple):
    """What `search` found.

    Attributes:
        coordinates: A normal fit: the coordinates to run a sampler in.
        prior: A distribution in the coordinates to draw from, close to the target.
        few: The coordinates that a neck is due to, first among those of `prior`; none if no neck was found.
        ess: The effective sample size of draws from `prior`, as a fraction.
        fitted: Whether the fit is one, and not merely the place that was looked at.
        modes: The modes.
        several_modes: Whether several modes matter.
        finding: What was found, in a sentence.
        evaluations: The number of evaluations of the density; a Hessian counts as one for each coordinate.
    """

    coordinates: Normal
    prior: Mixture
    few: tuple[int, ...]
    ess: float
    fitted: bool
    modes: Modes
    several_modes: bool
    finding: str
    evaluations: int


class Explored(NamedTuple):
    """What was found by means that are not those of the sampler to be checked.

    Attributes:
        points: Tempered particles.
        settled: Whether they have arrived at the target; `None` if there are none, in many dimensions.
        modes: Modes, of climbs.
        evaluations: The number of evaluations of the density.
    """

    points: Float[Array, "points dim"]
    settled: bool | None
    modes: Modes
    evaluations: int


@typed
def search(
    key: KeyArray, log_density: LogDensity, start: Normal, *, known: Modes | None = None, precision: float = 0.01
) -> Found:
    """Looks for modes, for a normal fit and for a neck, and adapts a distribution to draw from.

    Climbs from many starts find modes, the more the cheaper the density is. The normal fit is the closest to the target
    (`dds.coordinates.variational`), from the best of them or from the start, whichever has the larger bound. Modes that
    the fit does not cover become components of a mixture, with the masses that Laplace's approximation gives them.
    Where that is not good, and there is a neck (`dds.conditional`), the search goes on in its coordinates. The mixture
    is adapted to the target in a few rounds of importance sampling, tails included. If nothing is good, particles are
    tempered, and the mixture adapted to them.

    Args:
        key: The random key.
        log_density: The log density, unnormalised.
        start: Where to look: a distribution wide enough to reach all modes.
        known: Modes that are known already.
        precision: The standard error of log Z that is wanted: where the normal fit is close enough to reach it by
            importance sampling, nothing more is looked for.

    Returns:
        What was found.

    References:
        Cappé, Douc, Guillin, Marin and Robert (2008), Adaptive importance sampling in general mixture classes.

    Example:
        >>> from dds import targets
        >>> found = search(jax.random.key(0), targets.gaussian(jnp.ones(2), jnp.eye(2)).log_density, normal.standard(2))
        >>> found.finding, found.ess > 0.9
        ('one mode, with a normal fit', True)
    """
    modes_key, fit_key, first_key, adapt_key, neck_key, particles_key, last_key = jax.random.split(key, 7)
    dim, dense = start.mean.size, start.mean.size <= DENSE
    found = modes.search(modes_key, log_density, start, starts=modes.affordable(log_density, start) if dense else 1)
    if known is not None:
        found = modes.merge(found, known)
    fit, bound, spent, fitted = _fit(fit_key, log_density, start, found, dense)
    evaluations = found.evaluations + spent
    mixture, several = _mixture(log_density, fit, bound, found)
    if not dense:
        prior = mixtures.of_normal(Normal(jnp.zeros(dim, fit.mean.dtype), jnp.ones((), fit.mean.dtype)))
        ess = _round(log_density, normal.bijection(fit), 1024)(first_key, prior)[2]
        finding = f"a normal fit at the mode; above {DENSE} dimensions other modes are not looked for"
        return Found(fit, prior, (), float(ess), fitted, found, False, finding, evaluations + 1024)

    place = _moments(mixture) if several else fit
    inside, wide = _pull(place, mixture), _pull(place, mixtures.of_normal(start))
    if dim <= FLAT:
        inside = _joined(inside, wide, 0.1)
    if several and found.unseen > LISTED:
        finding = f"{len(found.points)} modes, and {found.unseen:.0%} of climbs find new ones: too many to list"
        return Found(place, inside, (), 0.0, fitted, found, True, finding, evaluations)
    draw = _round(log_density, normal.bijection(place), DRAWS)
    _, log_w, ess = draw(first_key, inside)
    count = len(mixture.means)
    finding = f"{count} modes" if several else "one mode, with a normal fit" if fitted else "no normal fit"
    best = Found(place, inside, (), float(ess), fitted, found, several, finding, evaluations + DRAWS)
    if _suffices(log_w, precision):
        return best
    if fitted and 2 <= dim <= CURVED and count <= BRANCHES:
        best = _with_neck(neck_key, log_density, fit, best)
        if best.few and best.ess > GOOD:
            return best
    prior, ess, rounds = _adapt(adapt_key, draw, inside, dim, wide)
    best = best._replace(evaluations=best.evaluations + rounds * DRAWS)
    if ess > best.ess:
        best = best._replace(prior=prior, few=(), ess=ess, finding=finding)
    if best.ess < 0.02:
        best = _with_particles(particles_key, last_key, log_density, start, best)
    return best


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
        >>> from dds import targets
        >>> mixture = targets.gaussian_mixture(jnp.zeros((2, 2)), jnp.array([0.03, 1.0]))
        >>> narrow = search(jax.random.key(0), mixture.log_density, Normal(jnp.zeros(2), jnp.array(0.03)))
        >>> points = jax.random.normal(jax.random.key(1), (50, 2))
        >>> extend(jax.random.key(2), mixture.log_density, narrow, points).finding.endswith("tempered particles")
        True
    """
    dim, place = found.coordinates.mean.size, found.coordinates
    if found.few or dim > DENSE or len(points) < 10:
        return found
    inside = jax.vmap(partial(normal.standardise, place))(jnp.asarray(points))
    spread = jnp.diag(jnp.std(inside, axis=0) + 1e-3)
    other = mixtures.of_normal(Normal(jnp.mean(inside, axis=0), spread), mixtures.FREEDOM)
    mixture = _joined(found.prior, other, 0.5)
    prior, ess, rounds = _adapt(key, _round(log_density, normal.bijection(place), DRAWS), mixture, dim)
    evaluations = found.evaluations + rounds * DRAWS
    if ess < 0.02:
        return found._replace(evaluations=evaluations)
    finding = f"{found.finding}, and a component around tempered particles"
    return found._replace(prior=prior, ess=ess, finding=finding, evaluations=evaluations)


@typed
def explore(key: KeyArray, log_density: LogDensity, start: Normal) -> Explored:
    """Looks for points of the target by climbs from new starts and by tempering from a wide start.

    Args:
        key: The random key, another than that of `search`.
        log_density: The log density, unnormalised.
        start: Where to look.

    Returns:
        The points and modes.

    Example:
        >>> from dds import targets
        >>> target = targets.gaussian(jnp.ones(2), jnp.eye(2))
        >>> explore(jax.random.key(0), target.log_density, Normal(jnp.zeros(2), jnp.array(3.0))).settled
        True
    """
    modes_key, particles_key = jax.random.split(key)
    if start.mean.size > DENSE:
        found = modes.search(modes_key, log_density, start, starts=1)
        return Explored(jnp.zeros((0, start.mean.size), start.mean.dtype), None, found, found.evaluations)
    found = modes.search(modes_key, log_density, start, starts=modes.affordable(log_density, start))
    options = {"mcmc_steps": 5, "ess_threshold": 0.7, "settling": 8, "max_stages": 100}
    particles = smc.temper(particles_key, log_density, start, EXPLORERS, **options)
    return Explored(particles.points, particles.settled, found, found.evaluations + particles.evaluations)


@typed
def uncovered(
    weigh: Callable[[Float[Array, "points dim"]], Float[Array, " points"]], log_z: float, found: Modes
) -> Float[np.ndarray, " modes"]:
    """The share of the target in each mode that a sampler does not cover, by Laplace's approximation.

    Args:
        weigh: The log weights that paths of the sampler to given points have.
        log_z: The logarithm of the normalising constant.
        found: The modes; the heaviest `COMPONENTS` are looked at.

    Returns:
        The shares: 0 for modes where the weights are about the normalising constant.

    Example:
        >>> from dds import targets
        >>> mixture = targets.gaussian_mixture(jnp.array([[-4.0, 0.0], [4.0, 0.0]]), jnp.ones(2), jnp.array([3.0, 1.0]))
        >>> found = modes.search(jax.random.key(0), mixture.log_density, Normal(jnp.zeros(2), jnp.array(3.0)))
        >>> left = Normal(jnp.array([-4.0, 0.0]), jnp.ones(()))
        >>> def weigh(points):
        ...     return jax.vmap(lambda x: mixture.log_density(x) - normal.log_density(left, x))(points)
        >>> uncovered(weigh, -0.29, found).round(2).tolist()
        [0.0, 0.25]
    """
    if not len(found.points):
        return np.zeros(0)
    points, scales, log_masses = (leaf[: _most(found.points.shape[1])] for leaf in found[:3])
    draws = _around(points, scales).reshape(-1, points.shape[1])
    excesses = np.median(np.asarray(weigh(draws)).reshape(len(points), -1), axis=1) - log_z
    masses, missed = np.asarray(log_masses, np.float64), ~(excesses <= APART)
    total = np.logaddexp.reduce(np.append(masses[missed], log_z))
    return np.where(missed, np.exp(masses - total), 0.0)


def _most(dim: int) -> int:
    return int(np.clip(2**17 // dim**2, 32, COMPONENTS))


@once
def _around(points: Array, scales: Array) -> Array:
    """Sixteen draws from a normal distribution around each point."""
    drawn = jax.random.normal(jax.random.key(0), (16, points.shape[1]), points.dtype)
    return jax.vmap(lambda *mode: jax.vmap(partial(normal.reparameterise, Normal(*mode)))(drawn))(points, scales)


def _fit(
    key: KeyArray, log_density: LogDensity, start: Normal, found: Modes, dense: bool
) -> tuple[Normal, float, int, bool]:
    """The normal fit, its bound, the evaluations it took, and whether it is better than the start."""
    fit_key, bound_key = jax.random.split(key)
    fixed = noise(bound_key, (256, start.mean.size), start.mean.dtype)

    def bound(place: Normal) -> float:
        value = float(coordinates.bound(log_density, fixed, place))
        return value if np.isfinite(value) else -np.inf

    start = start._replace(scale=normal.factor(start)) if dense else start
    places = [start] + [Normal(found.points[i], found.scales[i]) for i in range(min(1, len(found.points)))]
    bounds = [bound(place) for place in places]
    at, evaluations = int(np.argmax(bounds)), 256 * len(places)
    place, value = places[at], bounds[at]
    if dense:
        better, taken = coordinates.fit_from(fit_key, log_density, place)
        evaluations += taken * 64 * (start.mean.size + 3) + 256
        if (after := bound(better)) > value - 0.1:
            place, value = better, after
    return place, value, evaluations, value > bounds[0] + 0.1 or (at == 0 and abs(value - bounds[0]) <= 0.1)


def _mixture(log_density: LogDensity, fit: Normal, bound: float, found: Modes) -> tuple[Mixture, bool]:
    """The fit, and the modes that it does not cover; in the user's coordinates."""
    # Tails a little heavier than normal ones cost nearly nothing, and bound the weights.
    alone = mixtures.of_normal(fit if fit.mean.size <= DENSE else normal.standard(1), mixtures.FREEDOM)
    if fit.mean.size > DENSE or not len(found.points):
        return alone, False

    @once
    def weigh(points: Array) -> Array:
        return jax.vmap(lambda x: log_density(x) - normal.log_density(fit, x))(points)

    shares = uncovered(weigh, bound, found)
    others = np.flatnonzero(shares > np.exp(-RELEVANT))
    if not others.size:
        return alone, False
    log_masses = jnp.append(found.log_masses[others], jnp.asarray(bound, fit.mean.dtype))
    return Mixture(
        jax.nn.log_softmax(log_masses),
        jnp.concatenate([found.points[others], fit.mean[None]]),
        jnp.concatenate([found.scales[others], normal.factor(fit)[None]]),
        alone.freedom,
    ), True


@once
def _moments(mixture: Mixture) -> Normal:
    """The normal distribution with mean and covariance of a mixture of normal ones."""
    shares = jnp.exp(mixture.log_shares)
    mean = shares @ mixture.means
    away = mixture.means - mean[None]
    within = jnp.einsum("c,cij,ckj->ik", shares, mixture.scales, mixture.scales)
    return Normal(mean, jnp.linalg.cholesky(within + (shares[None] * away.T) @ away))


@once
def _pull(place: Normal, mixture: Mixture) -> Mixture:
    """A mixture in the coordinates of a normal fit."""

    def solve(scale: Array) -> Array:
        return jax.scipy.linalg.solve_triangular(place.scale, scale, lower=True)

    means = jax.vmap(partial(normal.standardise, place))(mixture.means)
    return mixture._replace(means=means, scales=jax.vmap(solve)(mixture.scales))


def _round(log_density: LogDensity, place: Bijection, draws: int) -> Callable:
    """Draws from a mixture in some coordinates, their log weights, and the effective sample size."""

    @once
    def draw(key: KeyArray, mixture: Mixture):
        prior = mixtures.extend(mixture, place.dim)
        drawn = jax.random.normal(key, (draws, mixtures.noise_size(prior)), prior.means.dtype)

        def one(e: Array):
            y = mixtures.draw(prior, e)
            x, log_determinant = place.forward(y)
            log_w = log_density(x) + log_determinant - mixtures.log_density(prior, y)
            return y, jnp.where(jnp.isnan(log_w) | jnp.isposinf(log_w), -jnp.inf, log_w)

        y, log_w = jax.lax.map(one, drawn, batch_size=512)
        return y, log_w, jnp.nan_to_num(estimators.effective_sample_size(log_w))

    return draw


def _adapt(
    key: KeyArray, draw: Callable, mixture: Mixture, dim: int, wide: Mixture | None = None
) -> tuple[Mixture, float, int]:
    """Adapts a mixture of `dim` coordinates in rounds of importance sampling; the best, its ESS, and the rounds."""
    mixture = _spread(jax.random.fold_in(key, 99), mixture, {1: 8, 2: 8, 3: 8}.get(dim, 4 if dim <= 10 else 2))
    best, best_ess, stale, rounds = mixture, -1.0, 0 if len(mixture.means) <= ADAPTED else 1, 0
    while rounds < 10:
        y, log_w, ess = draw(jax.random.fold_in(key, rounds), mixture)
        rounds += 1
        stale = 0 if float(ess) > 1.1 * best_ess + 0.002 and len(mixture.means) <= ADAPTED else stale + 1
        if float(ess) > best_ess:
            best, best_ess = mixture, float(ess)
        if stale == 2 or best_ess >= 0.9:
            break
        weights = _flattened(log_w, 200 + 5 * dim)
        mixture = _defended(_improve(mixture, y[:, :dim], weights), y[:, :dim], weights, wide)
    return best, best_ess, rounds


@once
def _improve(mixture: Mixture, points: Array, weights: Array) -> Mixture:
    return mixtures.fit(mixture, points, weights, iterations=3)


def _suffices(log_weights: Array, precision: float) -> bool:
    """Whether importance sampling with so many draws as are cheap will do, and its weights have a light tail."""
    ess = float(estimators.effective_sample_size(log_weights))
    error = np.sqrt((1 / ess - 1) / CHEAP) if ess > 0 else np.inf
    return ess > 0.1 and error < precision / 2 and estimators.pareto_k(log_weights) < 0.6


@partial(once, static_argnums=2)
def _spread(key: KeyArray, mixture: Mixture, count: int) -> Mixture:
    """A mixture with at least so many components: the further ones lie around the first, and some are wider."""
    more = count - len(mixture.means)
    if more <= 0:
        return mixture
    away = 1.5 * jax.random.normal(key, (more, mixture.means.shape[1]), mixture.means.dtype)
    chosen = jnp.arange(more) % len(mixture.means)
    means = mixture.means[chosen] + jnp.einsum("cij,cj->ci", mixture.scales[chosen], away)
    if mixture.means.shape[1] > 3:  # in many dimensions such a draw is of no use
        means = mixture.means[chosen]
    widths = jnp.asarray([1.5, 1, 1, 3], away.dtype)[jnp.arange(more) % 4]
    scales = widths[:, None, None] * mixture.scales[chosen]
    log_shares = jnp.append(mixture.log_shares + jnp.log(0.6), jnp.full(more, jnp.log(0.4 / more)))
    return Mixture(
        log_shares.astype(away.dtype),
        jnp.concatenate([mixture.means, means]),
        jnp.concatenate([mixture.scales, scales]),
        mixture.freedom,
    )


def _flattened(log_weights: Array, least: int) -> Array:
    """Normalised weights, to a power at which they are worth so many points at least."""
    log_weights = jnp.maximum(log_weights, jnp.max(log_weights) - 1e4)
    power = 1.0
    while power > 0.01 and float(estimators.effective_sample_size(power * log_weights)) * log_weights.size < least:
        power *= 0.8
    return jax.nn.softmax(power * log_weights)


@once
def _defended(mixture: Mixture, points: Array, weights: Array, wide: Mixture | None) -> Mixture:
    """In few dimensions, a mixture whose lightest component is replaced by a wide one: it bounds the weights."""
    count, dim = mixture.means.shape
    if dim > FLAT or count < 2:
        return mixture
    if wide is None:
        mean = weights @ points
        away = points - mean[None]
        covariance = 6.0 * (weights[None] * away.T) @ away + 1e-6 * jnp.eye(dim, dtype=points.dtype)
        wide = mixtures.of_normal(Normal(mean, jnp.linalg.cholesky(covariance)))
    kept = jnp.argsort(-mixture.log_shares)[:-1]
    log_shares = jax.nn.log_softmax(mixture.log_shares[kept])
    return _joined(Mixture(log_shares, mixture.means[kept], mixture.scales[kept], mixture.freedom), wide, 0.1)


def _joined(mixture: Mixture, other: Mixture, share: float) -> Mixture:
    """Two mixtures as one, of which the other has a share."""
    log_shares = jnp.append(mixture.log_shares + np.log1p(-share), other.log_shares + np.log(share))
    means, scales = (jnp.concatenate(pair) for pair in zip(mixture[1:3], other[1:3], strict=True))
    return Mixture(log_shares.astype(means.dtype), means, scales, mixture.freedom)


def _with_neck(key: KeyArray, log_density: LogDensity, fit: Normal, found: Found) -> Found:
    """In the coordinates of a neck, if there is one and they are better."""
    noise_key, adapt_key = jax.random.split(key)
    dim = fit.mean.size
    few = conditional.neck(log_density, fit, noise(noise_key, (16, dim), fit.mean.dtype))
    evaluations = found.evaluations + 16 * dim**2
    if not few:
        return found._replace(evaluations=evaluations)
    draw = _round(log_density, conditional.bijection(log_density, fit, few), DRAWS)
    own = Normal(jnp.zeros(len(few), fit.mean.dtype), jnp.ones((), fit.mean.dtype))
    prior, ess, rounds = _adapt(adapt_key, draw, mixtures.of_normal(own), len(few))
    evaluations += rounds * DRAWS * ((conditional.NEWTON + 1) * dim + 1)
    prior, place = mixtures.extend(prior, dim), conditional.bijection(log_density, fit, few)

    @once
    def weigh(points: Array) -> Array:
        def one(x: Array) -> Array:
            y, log_determinant = place.inverse(x)
            return log_density(x) + log_determinant - mixtures.log_density(prior, y)

        return jax.lax.map(one, points, batch_size=64)

    # What looks like a second mode is often the neck itself; if not, these coordinates do not cover it.
    log_z = float(estimators.log_z(draw(adapt_key, prior)[1]).value) if found.several_modes else 0.0
    missed = uncovered(weigh, log_z, found.modes).sum() if found.several_modes else 0.0
    if ess < 1.2 * found.ess or missed > np.exp(-RELEVANT / 2):
        return found._replace(evaluations=evaluations)
    names = f"coordinate{'s' * (len(few) > 1)} {', '.join(map(str, few))}"
    finding = f"one mode, nearly normal given {names}"
    changes = {"coordinates": fit, "prior": prior, "few": few, "ess": ess, "several_modes": False}
    return found._replace(**changes, finding=finding, evaluations=evaluations)


def _with_particles(key: KeyArray, adapt_key: KeyArray, log_density: LogDensity, start: Normal, found: Found) -> Found:
    """A mixture adapted to tempered particles, if it is better."""
    particles = smc.temper(key, log_density, start, 1000)
    points, dim = particles.points, start.mean.size
    evaluations = found.evaluations + particles.evaluations
    try:
        place = coordinates.moments(points)
    except ValueError:  # they lie in a plane, or there are too few of them
        return found._replace(evaluations=evaluations)
    inside = jax.vmap(partial(normal.standardise, place))(points)
    chosen = inside[:8]
    mixture = Mixture(
        jnp.full(8, -jnp.log(8.0), points.dtype),
        chosen,
        jnp.broadcast_to(0.5 * jnp.eye(dim, dtype=points.dtype), (8, dim, dim)),
        jnp.asarray(jnp.inf, points.dtype),
    )
    mixture = mixtures.fit(mixture, inside, jnp.full(len(points), 1 / len(points), points.dtype), iterations=20)
    prior, ess, rounds = _adapt(adapt_key, _round(log_density, normal.bijection(place), DRAWS), mixture, dim)
    evaluations += rounds * DRAWS
    if ess < 1.2 * found.ess:
        return found._replace(evaluations=evaluations)
    finding = f"{found.finding}; tempered particles, with a mixture"
    return found._replace(
        coordinates=place, prior=prior, ess=ess, fitted=True, finding=finding, evaluations=evaluations
    )
