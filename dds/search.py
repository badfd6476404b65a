"""Looks at a target before anything is trained: modes, a normal fit, a neck, and a distribution to draw from.

What it finds is data, `Found`: coordinates and a prior with which `dds.families.importance` is a sampler already. How
good it is its effective sample size says; `dds.choices.ladder` goes on from there.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dds import adaptation, conditional, coordinates, estimators, exploration, mixtures, modes, necks, normal
from dds.adaptation import Adapted
from dds.checks import typed
from dds.compiling import in_batches, noise, once, split
from dds.modes import Modes
from dds.types import KeyArray, LogDensity, LogWeights, Mixture, Neck, Normal, Product, Scalar

RELEVANT = 12.0
"""A mode whose log mass is farther than this below the rest is left out."""

NARROWER = (1.0, 0.3, 0.1)
"""The multiples of the scale of the start, from the best of which, or from the best mode, the normal fit starts."""

LISTED = 0.1
"""The share of climbs to new modes above which it is not tried to list them."""

BRANCHES = 4
"""The most modes with which it is asked whether they are but the neck of one."""

SURE = 0.5
"""The part of another effective sample size from which that of a neck is preferred: the other can miss its end."""

WORTH = 0.3
"""The effective sample size below which a neck is none: given its coordinates the others are far from normal."""

PROBES = 256
"""The third derivatives by which a neck is looked for, for each coordinate that could be due to it."""

DRAWS = 4096
"""The draws of a round in which a prior is adapted."""

CHEAP = 2**18
"""The most evaluations of the density that draws of a sampler may cost without further ado."""

GOOD = 0.5
"""The effective sample size from which the search ends, if the weights have a light tail, too."""


class Found(NamedTuple):
    """What `search` found.

    Attributes:
        coordinates: A normal fit: the coordinates to run a sampler in.
        prior: A distribution in the coordinates to draw from, close to the target.
        neck: The coordinates of a neck (`dds.conditional`), which are those of `prior` then; `None` if none was found.
        ess: The effective sample size of draws from `prior`, as a fraction (`dds.adaptation.Round`).
        fitted: Whether the fit is one, and not merely the place that was looked at.
        modes: The modes.
        several_modes: Whether several modes matter.
        finding: What was found, in a sentence.
        evaluations: The number of evaluations of the density; a Hessian counts as one for each coordinate.
    """

    coordinates: Normal
    prior: Mixture | Product
    neck: Neck | None
    ess: float
    fitted: bool
    modes: Modes
    several_modes: bool
    finding: str
    evaluations: int


@typed
def search(
    key: KeyArray, log_density: LogDensity, start: Normal, *, known: Modes | None = None, precision: float = 0.01
) -> Found:
    """Looks for modes, for a normal fit and for a neck, and adapts a distribution to draw from.

    Climbs from many starts find modes, the more the cheaper the density is. The normal fit is the closest to the target
    (`dds.coordinates.variational`), from the best of them or from the start, perhaps narrower, whichever has the
    largest bound; where Hessians are many and not cheap, it is Laplace's approximation, and no neck is looked for.
    Modes that the fit does not cover become components of a mixture, with the masses that Laplace's approximation gives
    them. Where that is not good, and there is a neck (`dds.conditional`), the search goes on in its coordinates. The
    mixture is adapted to the target in a few rounds of importance sampling (`dds.adaptation`), tails included.

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
        >>> found = search(
        ...     jax.random.key(0),
        ...     targets.gaussian(jnp.ones(2), jnp.eye(2)).log_density,
        ...     normal.standard(2),
        ... )
        >>> found.finding, found.ess > 0.9
        ('one mode, with a normal fit', True)
    """
    modes_key, fit_key, first_key, adapt_key, neck_key, tails_key = split(key, 6)
    dim, dense = start.mean.size, coordinates.is_cheap(log_density, start)
    if dim > modes.LARGE:
        return _without_matrices(fit_key, log_density, start)
    found = modes.search(modes_key, log_density, start, starts=modes.affordable(log_density, start))
    if known is not None:
        found = modes.merge(found, known)
    fit, bound, spent, fitted = _fit(fit_key, log_density, start, found, dense)
    # Tails a little heavier than normal ones cost next to nothing in few dimensions, and bound the weights.
    plain = mixtures.of_normal(normal.standard(dim), mixtures.FREEDOM if dim <= modes.DENSE else jnp.inf)
    finding = "one mode, with a normal fit" if len(found.points) else "a normal fit, but no mode"
    one = Found(fit, plain, None, 0.0, fitted, found, False, finding, found.evaluations + spent)
    if not fitted:
        one = one._replace(finding="no normal fit")
    one = _with_others(log_density, bound, one, plain.freedom)
    if one.several_modes and found.unseen > LISTED:
        new = f"{found.unseen:.0%} of climbs find new ones"
        return one._replace(finding=f"{len(found.points)} modes, and {new}: too many to list")
    prior = one.prior
    assert isinstance(prior, Mixture)
    if not dense:
        return _tried(one, adaptation.rounds(log_density, one.coordinates, 1024)(first_key, prior))
    wide = mixtures.pull(one.coordinates, mixtures.of_normal(start))
    branches = len(prior.means)
    if dim <= adaptation.FLAT:
        prior = mixtures.join(prior, wide, adaptation.WIDE)
    draw = adaptation.rounds(log_density, one.coordinates, DRAWS)
    first = draw(first_key, prior)
    one = _tried(one._replace(prior=prior), first)
    enough = _suffices(first.log_weights, precision)
    if enough and first.ess > GOOD:
        return one
    if enough:  # so few draws can look better than they are
        more = [draw(jax.random.fold_in(first_key, i), prior).log_weights for i in range(3)]
        one = one._replace(evaluations=one.evaluations + 3 * DRAWS)
        log_weights = jnp.concatenate([first.log_weights, *more])
        enough = _suffices(log_weights, precision)
        if enough and estimators.pareto_k(log_weights) <= 0:  # bounded: no end of a neck is missed
            return one
    neck = None
    if fitted and dim >= 2 and branches <= BRANCHES:
        neck = _with_neck(neck_key, log_density, fit, one, precision if enough else None)
        one = one._replace(evaluations=neck.evaluations)
        if neck.neck is not None and neck.ess > GOOD:
            return neck
    if enough:
        return one
    one = with_prior(one, adaptation.adapt(adapt_key, draw, prior, wide=wide), one.ess)
    if one.ess <= GOOD and len(found.points):
        one = _with_own_tails(tails_key, draw, one, wide)
    if neck is not None and neck.neck is not None and neck.ess >= SURE * one.ess:
        return neck._replace(evaluations=one.evaluations)
    return one


def _without_matrices(key: KeyArray, log_density: LogDensity, start: Normal) -> Found:
    """A diagonal fit, if it is better than the start, and nothing to draw from."""
    fit_key, bound_key = split(key)
    end, spent = modes.climb(log_density, start.mean)
    place = coordinates.diagonal(fit_key, log_density, start._replace(mean=end))
    fixed = noise(bound_key, (16, start.mean.size), start.mean.dtype)
    bounds = [float(coordinates.bound(log_density, fixed, each)) for each in (place, start)]
    fitted = bool(np.isfinite(bounds[0]) and not bounds[1] > bounds[0])
    finding = f"{'a' if fitted else 'no'} diagonal fit; in so many dimensions nothing else is looked for"
    none = modes.none(start.mean.size)
    nothing = Mixture(none.log_masses, none.points, none.scales, jnp.asarray(jnp.inf))
    return Found(
        place if fitted else start,
        nothing,
        None,
        0.0,
        True,
        none,
        False,
        finding,
        spent + coordinates.PROBES + 2 * len(fixed),
    )


def with_prior(found: Found, adapted: Adapted, least: float, **changes: Any) -> Found:
    """What was found, with an adapted prior, and what goes with it, if its effective sample size is above the least.

    Args:
        found: What was found.
        adapted: The adapted prior.
        least: The effective sample size that it is to have.
        **changes: What goes with it.

    Returns:
        What was found; the evaluations of the adaptation are counted in any case.

    Example:
        >>> from dds import targets
        >>> found = search(
        ...     jax.random.key(0),
        ...     targets.gaussian(jnp.ones(2), jnp.eye(2)).log_density,
        ...     normal.standard(2),
        ... )
        >>> with_prior(found, Adapted(found.prior, 0.5, 4096), 0.6).ess > 0.9
        True
    """
    found = found._replace(evaluations=found.evaluations + adapted.evaluations)
    return found._replace(prior=adapted.prior, ess=adapted.ess, **changes) if adapted.ess > least else found


def _fit(
    key: KeyArray, log_density: LogDensity, start: Normal, found: Modes, dense: bool
) -> tuple[Normal, float, int, bool]:
    """The normal fit, its bound, the evaluations it took, and whether there is one."""
    fit_key, bound_key = split(key)
    fixed = noise(bound_key, (256, start.mean.size), start.mean.dtype)

    def bound(place: Normal) -> float:
        value = float(coordinates.bound(log_density, fixed, place))
        return value if np.isfinite(value) else -np.inf

    start = start._replace(scale=normal.factor(start)) if dense else start
    places = [Normal(*mode) for mode in zip(found.points[:1], found.scales[:1], strict=True)]
    # From where the density is steep a step of the fit can lead far astray: a narrower start is tried as well.
    places += [start._replace(scale=width * start.scale) for width in NARROWER]
    at = int(np.argmax([bound(place) for place in places]))
    fit, evaluations = places[at], 256 * (len(places) + 1)
    if dense:
        fit, taken = coordinates.fit_from(fit_key, log_density, fit)
        evaluations += taken * coordinates.DRAWS * (start.mean.size + 3)
    value = bound(fit)
    # A start that is the target is a fit, too: of a mode that it has found.
    before = bound(start)
    if value > before + 0.1 or (len(found.points) and abs(value - before) <= 0.1):
        return fit, value, evaluations, True
    return start, before, evaluations, False


def _tried(found: Found, drawn: adaptation.Round) -> Found:
    """What was found, after a round of draws from its prior."""
    return found._replace(ess=drawn.ess, evaluations=found.evaluations + len(drawn.log_weights))


def _with_others(log_density: LogDensity, bound: float, found: Found, freedom: Scalar) -> Found:
    """With the modes that the fit does not cover, in coordinates of all of them."""
    if not len(found.modes.points):
        return found
    fit = found.coordinates

    @once
    def weigh(points: Array) -> Array:
        return jax.vmap(lambda x: log_density(x) - normal.log_density(fit, x))(points)

    shares, spent, weighed = exploration.uncovered(log_density, weigh, bound, found.modes)
    found = found._replace(evaluations=found.evaluations + spent + weighed)
    chosen = np.flatnonzero(shares > np.exp(-RELEVANT))
    if not chosen.size:
        return found
    points, scales, log_masses, counts, evaluations = found.modes
    log_masses = jnp.log(jnp.asarray(shares, log_masses.dtype))
    others = Modes(points[chosen], scales[chosen], log_masses[chosen], counts[chosen], evaluations)
    share = float(np.clip(1 - shares.sum(), 1e-6, 1 - 1e-6))
    mixture = mixtures.join(modes.mixture(others), mixtures.of_normal(fit), share)
    place = mixtures.moments(mixture)
    prior = mixtures.pull(place, mixture._replace(freedom=freedom))
    return found._replace(coordinates=place, prior=prior, several_modes=True, finding=f"{len(mixture.means)} modes")


def _with_own_tails(key: KeyArray, draw: adaptation.Draw, found: Found, wide: Mixture) -> Found:
    """With a component for each mode that matters, whose coordinates have tails of their own, if that is good."""
    points, scales, log_masses, counts, evaluations = found.modes
    heavy = np.asarray(log_masses) > float(log_masses[0]) - RELEVANT
    heavy = np.flatnonzero(heavy)[: exploration.most_modes(points.shape[1])]
    relevant = Modes(points[heavy], scales[heavy], log_masses[heavy], counts[heavy], evaluations)
    own = mixtures.pull(found.coordinates, mixtures.with_own_tails(modes.mixture(relevant)))
    count = f"{len(heavy)} modes" if len(heavy) > 1 else "one mode"
    changes = {"several_modes": len(heavy) > 1, "finding": f"{count}, with tails of each coordinate's own"}
    least = max(1.2 * found.ess, estimators.POOR)
    return with_prior(found, adaptation.adapt(key, draw, own, wide=wide), least, **changes)


def _suffices(log_weights: LogWeights, precision: float) -> bool:
    """Whether importance sampling with so many draws as are cheap will do, and its weights have a light tail."""
    ess = min(float(estimators.effective_sample_size(log_weights)), 1.0)  # of equal weights it can be rounded up
    error = np.sqrt((1 / ess - 1) / CHEAP) if ess > 0 else np.inf
    return ess > estimators.POOR and error < precision / 2 and estimators.pareto_k(log_weights) < 0.6


def _with_neck(key: KeyArray, log_density: LogDensity, fit: Normal, found: Found, precision: float | None) -> Found:
    """In the coordinates of a neck, if there is one, and they are good (`WORTH`) and not much worse (`SURE`).

    With a precision, if what was found suffices for that, they have to, too.
    """
    noise_key, adapt_key, check_key = split(key, 3)
    dim = fit.mean.size
    few, spent = necks.search(log_density, fit, noise(noise_key, (2, PROBES, dim), fit.mean.dtype))
    few, evaluations = few[: conditional.affordable(dim)], found.evaluations + spent
    if not len(few):
        return found._replace(evaluations=evaluations)

    def adapted_to(few: Array) -> tuple[Adapted, Neck, adaptation.Draw]:
        nonlocal evaluations
        neck, spent = conditional.tabulate(log_density, fit, few)
        draw = adaptation.rounds(log_density, conditional.bijection(neck), DRAWS)
        own = Normal(jnp.zeros(len(few), fit.mean.dtype), jnp.ones((), fit.mean.dtype))
        adapted = adaptation.adapt(adapt_key, draw, mixtures.of_normal(own))
        evaluations += spent + adapted.evaluations
        return adapted, neck, draw

    tries = [adapted_to(few)]
    if len(few) > 1 and tries[0][0].ess <= GOOD:  # those that come second can be in the neck of the first
        tries.append(adapted_to(few[:1]))
    (mixture, ess, _), neck, draw = max(tries, key=lambda tried: tried[0].ess)
    if ess < max(WORTH, SURE * found.ess):
        return found._replace(evaluations=evaluations)
    assert isinstance(mixture, Mixture)
    prior, missed, drawn = mixtures.extend(mixture, dim), 0.0, draw(check_key, mixture)
    evaluations += DRAWS
    if found.several_modes:  # what looks like a second mode is often the neck itself

        @once
        def weigh(points: Array) -> Array:
            place = conditional.bijection(neck)

            def one(x: Array) -> Array:
                y, log_determinant = place.inverse(x)
                return log_density(x) + log_determinant - mixtures.log_density(prior, y)

            return in_batches(one, 64)(points)

        log_z = estimators.log_z(drawn.log_weights).value
        shares, spent, weighed = exploration.uncovered(log_density, weigh, float(log_z), found.modes)
        missed, evaluations = float(shares.sum()), evaluations + spent + weighed
    worse = precision is not None and not _suffices(drawn.log_weights, precision)
    if worse or missed > np.exp(-RELEVANT / 2):
        return found._replace(evaluations=evaluations)
    own = [f"coordinate {i}" for i in neck.order[: len(neck.shear)].tolist()]
    slanted = jnp.any(neck.shear != 0, axis=1).tolist()
    names = ["a combination of coordinates" if mixed else name for name, mixed in zip(own, slanted, strict=True)]
    finding = f"one mode, nearly normal given {' and '.join(names)}"
    return Found(fit, prior, neck, ess, True, found.modes, False, finding, evaluations)
