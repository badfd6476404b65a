"""The choice of the recipes that suit a target, the cheapest first.

`importance` and `ladder` give those to be tried; `choose` one that is trained.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dds import conditional, estimators, losses, mixtures, normal, recipes, smc
from dds.checks import typed
from dds.compiling import once, split
from dds.modes import DENSE
from dds.recipes import NO_STEPS, Plan, Recipe, build
from dds.search import Found, search
from dds.types import Family, KeyArray, LogDensity, Mixture, Neck, Normal, Target

HEAD_START = 0.5
"""The effective sample size of the untrained sampler from which gates on the score are enough."""

POINTS = 10_000
"""The number of tempered particles that the forward loss trains on."""


@typed
def importance(target: Target, found: Found) -> Recipe:
    """Importance sampling from the distribution that a search found: nothing to train.

    Args:
        target: The target.
        found: What `dds.search.search` found.

    Returns:
        The recipe. The evaluations of the search are not among its own.

    Example:
        >>> from dds import targets
        >>> target = targets.gaussian(jnp.ones(2), jnp.eye(2))
        >>> found = search(
        ...     jax.random.key(0), target.log_density, starting_point(target)
        ... )
        >>> importance(target, found).updates
        0
    """
    plan = Plan("importance", f"{found.finding}; nothing to train", NO_STEPS, found.coordinates)
    return build(plan._replace(prior=found.prior, neck=found.neck), target)


@typed
def ladder(key: KeyArray, target: Target, found: Found) -> Iterator[Recipe]:
    """What to try where importance sampling does not do, the cheapest first.

    The untrained sampler that follows the score, where it has a head start; what `choose` makes of the target, which is
    trained; and, where that trains along its own paths, which can miss parts of the target, a network trained on
    tempered particles.

    Args:
        key: The random key.
        target: The target.
        found: What `dds.search.search` found.

    Yields:
        The recipes.

    Example:
        >>> from dds import targets
        >>> target = targets.gaussian(jnp.ones(2), jnp.eye(2))
        >>> found = search(
        ...     jax.random.key(0), target.log_density, starting_point(target)
        ... )
        >>> [recipe.updates for recipe in ladder(jax.random.key(1), target, found)]
        [0, 500, 3000]
    """
    own_key, particles_key = split(key)
    own = choose(own_key, target, found=found)
    plan = own.plan
    assert plan is not None
    if plan.kind == "gates":
        why = own.why.replace("gates on the score are enough", "nothing is trained")
        yield build(plan._replace(numbers=plan.numbers._replace(updates=0), why=why), target)
        own = own._replace(evaluations=(0, own.evaluations[1]))  # the choice is counted already
    yield own
    if plan.points is None and target.dim <= DENSE:
        missed = found._replace(several_modes=True, finding="a sampler trained along its own paths does not do")
        yield choose(particles_key, target, found=missed)


@typed
def choose(
    key: KeyArray,
    target: Target,
    *,
    found: Found | None = None,
    kernel: Literal["learned", "dds"] = "learned",
    loss: Literal["reverse", "forward"] | None = None,
    whiten: bool = True,
    score_clip: float = 100.0,
    stop_score: bool = False,
    numbers: Mapping[str, Any] | None = None,
) -> Recipe:
    """Chooses what to train on a target.

    With one mode, it trains along the sampler's own paths, gates on the score alone where the untrained sampler is good
    already or the dimension is high, else a network. With several, or where there is no normal fit, it trains on
    tempered particles.

    Args:
        key: The random key.
        target: The target.
        found: What `dds.search.search` found, with the coordinates of a neck to run in, if there is one. By default it
            looks itself, which is among the evaluations, and runs in affine coordinates: in those of a neck little is
            left to train.
        kernel: What is learned: everything (`dds.families.learned`), or the control alone as published.
        loss: The loss; by default the one that fits.
        whiten: Whether to run in the coordinates that were found.
        score_clip: For "dds", as in `dds.networks.mlp`.
        stop_score: For "dds", as in `dds.networks.mlp`.
        numbers: Numbers in place of the defaults, by the names of `Numbers`.

    Returns:
        The recipe.

    Raises:
        ValueError: If a number is out of its range, or `loss` is "forward" with the kernel "dds".

    Example:
        >>> from dds import targets
        >>> recipe = choose(
        ...     jax.random.key(0),
        ...     targets.funnel(2),
        ...     kernel="dds",
        ...     numbers={"steps": 8, "noise": 2.0},
        ... )
        >>> recipe.plan.numbers.steps, recipe.why
        (8, 'the control alone is learned, as published')
    """
    given = dict(numbers or {})
    recipes.check(given, kernel, loss)
    search_key, points_key, pilot_key = split(key, 3)
    start = starting_point(target)
    if kernel == "dds":
        plan = Plan(
            "dds", "the control alone is learned, as published", recipes.DEFAULTS["dds"]._replace(**given), start
        )
        return build(plan._replace(score_clip=score_clip, stop_score=stop_score), target)

    place, finding, evaluations, scattered, neck = start, "the coordinates are the user's", 0, False, None
    if whiten:
        if found is None:
            found = search(search_key, target.log_density, start)
            evaluations = found.evaluations
        else:
            neck = found.neck
        place, scattered = found.coordinates, found.several_modes or not found.fitted
        finding = "one mode, with a neck" if found.neck is not None else found.finding
    if loss == "forward" or (loss is None and scattered):
        cover = _around(found, start) if found is not None and scattered else place
        points, cost = _particles(points_key, target.log_density, cover, neck)
        if scattered and neck is None:
            place = Normal(jnp.mean(points, axis=0), jnp.std(points, axis=0))
        why = f"{finding}, so a network is trained on {POINTS} tempered particles"
        plan = Plan(
            "modes", why, recipes.DEFAULTS["modes"]._replace(**given), place, points, evaluations + cost, neck=neck
        )
        return build(plan, target)

    kind, reason = "network", "a network is trained along the sampler's own paths"
    if "width" in given:
        kind = "network" if given["width"] else "gates"
        reason = "the width was given"
    elif target.dim > DENSE:
        kind, reason = "gates in many dimensions", "in many dimensions gates on the score are trained, few times"
    else:
        pilot = build(Plan("gates", "", recipes.DEFAULTS["gates"], place, neck=neck), target)
        ess = _pilot(pilot.family, target.log_density, pilot_key)
        evaluations += 1000 * (recipes.DEFAULTS["gates"].steps + 2)
        if ess > HEAD_START:
            kind, reason = "gates", f"1000 untrained paths are worth {1000 * ess:.0f}: gates on the score are enough"
    why = f"{finding}; {reason}"
    return build(Plan(kind, why, recipes.DEFAULTS[kind]._replace(**given), place, None, evaluations, neck=neck), target)


@typed
def starting_point(target: Target) -> Normal:
    """Where a target is looked for: its `start`, or the standard normal.

    Args:
        target: The target.

    Returns:
        The distribution.

    Example:
        >>> from dds import targets
        >>> round(float(starting_point(targets.funnel(2)).scale), 3)
        1.075
    """
    return normal.standard(target.dim) if target.start is None else jax.tree.map(jnp.asarray, target.start)


def _around(found: Found, start: Normal) -> Normal | Mixture:
    """Where particles start if there are more modes than those that were found: from these, and from everywhere."""
    if found.ess > 0 and isinstance(found.prior, Mixture):
        return mixtures.join(mixtures.push(found.coordinates, found.prior), mixtures.of_normal(start), 0.5)
    return start


def _particles(
    key: KeyArray, log_density: LogDensity, cover: Normal | Mixture, neck: Neck | None
) -> tuple[Float[Array, "points dim"], int]:
    """Tempered particles, and the evaluations they took; what moves in the coordinates of a neck passes it."""
    if neck is None:
        particles = smc.temper(key, log_density, cover, POINTS, ess_threshold=0.98)
        return particles.points, particles.evaluations
    place = conditional.bijection(neck)
    standard = normal.standard(place.dim)
    wide = standard._replace(scale=2 * standard.scale)
    particles = smc.temper(key, normal.pull_back(place, log_density), wide, POINTS, ess_threshold=0.98)
    return once(jax.vmap(lambda y: place.forward(y)[0]))(particles.points), particles.evaluations


def _pilot(family: Family, log_density, key: KeyArray) -> float:
    """The effective sample size of the untrained sampler."""
    init_key, paths_key = split(key)
    sampler = family.sampler(family.init(init_key))
    log_w = jax.jit(lambda key: losses.log_weights(sampler, key, log_density, 1000))(paths_key)
    return float(estimators.effective_sample_size(log_w))
