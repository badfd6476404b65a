"""Recipes: what is trained, by which loss, how long and why.

A recipe is data. `build` makes one of a `Plan`, which is all of a recipe but the functions, and can be saved. One of
your own is a `Recipe` of your own functions; `dds.choices` chooses those that suit a target.
"""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dds import conditional, families, losses, networks, normal, schedules
from dds.checks import require, typed
from dds.types import Family, Loss, Mixture, Neck, Normal, Product, Target


class Numbers(NamedTuple):
    """The numbers of a training.

    Attributes:
        steps: The steps `K` of a path.
        updates: The updates of the parameters.
        batch: The paths of an update.
        learning_rate: The highest learning rate of Adam.
        noise: The sum of the noise fractions of all steps.
        width: The units of the network's hidden layers; 0 for no network.
        depth: The number of its hidden layers.
    """

    steps: int
    updates: int
    batch: int
    learning_rate: float
    noise: float
    width: int
    depth: int = 2


class Plan(NamedTuple):
    """All of a recipe but its functions.

    Attributes:
        kind: The key of `DEFAULTS` whose functions are meant, or "importance" for a sampler of no steps.
        why: Why this recipe, in a sentence.
        numbers: The numbers.
        coordinates: The coordinates that the sampler starts from.
        points: Points of the target for the forward loss, or `None` for the reverse loss.
        evaluations: The evaluations of the density that went into the choice.
        score_clip: For "dds", the bound on each coordinate of the score.
        stop_score: For "dds", whether no gradient flows through the score.
        prior: For "importance", the distribution in the coordinates that is drawn from.
        neck: The coordinates of a neck (`dds.conditional`), in which it runs then.
    """

    kind: str
    why: str
    numbers: Numbers
    coordinates: Normal
    points: Float[Array, "points dim"] | None = None
    evaluations: int = 0
    score_clip: float = 100.0
    stop_score: bool = False
    prior: Mixture | Product | None = None
    neck: Neck | None = None


class Recipe(NamedTuple):
    """What is trained, and how.

    Attributes:
        family: What is trained.
        loss: What training lowers.
        optimiser: The optimiser.
        updates: The number of updates.
        why: Why this recipe, in a sentence.
        bound: What the loss estimates: "ELBO" with its sign changed, or "EUBO".
        evaluations: The evaluations of the density: those of the choice, and those of all updates.
        plan: The data that `build` can make it of again, or `None`.
    """

    family: Family
    loss: Loss
    optimiser: optax.GradientTransformation
    updates: int
    why: str
    bound: Literal["ELBO", "EUBO"] = "ELBO"
    evaluations: tuple[int, int] = (0, 0)
    plan: Plan | None = None


# Modes are learned side by side, which is quick with many steps, and they ask for many; along its own paths a network
# learns best from many paths of few steps; gates have few parameters to learn, and many steps make them good.
DEFAULTS = {
    "network": Numbers(steps=8, updates=2500, batch=256, learning_rate=1e-2, noise=3.7, width=64),
    "gates": Numbers(steps=64, updates=500, batch=128, learning_rate=3e-3, noise=2.0, width=0),
    "gates in many dimensions": Numbers(steps=16, updates=200, batch=32, learning_rate=3e-3, noise=2.0, width=0),
    "modes": Numbers(steps=16, updates=3000, batch=128, learning_rate=1e-2, noise=3.7, width=64),
    "dds": Numbers(steps=128, updates=2000, batch=100, learning_rate=5e-3, noise=3.7, width=64),
}
"""The numbers of each kind of recipe."""

ARRAYS = ("coordinates", "points", "prior", "neck")
"""The parts of a plan that are arrays."""

NO_STEPS = Numbers(steps=0, updates=0, batch=1, learning_rate=1e-3, noise=0.0, width=0)
"""The numbers of a sampler of no steps, of which nothing is trained."""


@typed
def build(plan: Plan, target: Target) -> Recipe:
    """Makes the functions of a plan.

    Args:
        plan: The plan.
        target: The target.

    Returns:
        The recipe.

    Raises:
        ValueError: If a number is out of its range, or the coordinates are of another dimension.

    Example:
        >>> from dds import targets
        >>> plan = Plan(
        ...     "network", "an example", DEFAULTS["network"], normal.standard(2)
        ... )
        >>> build(plan, targets.funnel(2)).updates
        2500
    """
    numbers, place, log_density = plan.numbers, plan.coordinates, target.log_density
    finite = losses.with_finite_gradient(log_density)  # one path that overflows is not to spoil an update
    require(place.mean.size == target.dim, "the dimension of the coordinates", place.mean.size, f"{target.dim}")
    _require_memory(numbers, target.dim)
    inside = place if plan.neck is None else conditional.bijection(plan.neck)
    if plan.kind == "importance":
        family = families.importance(inside, plan.prior)
    elif plan.kind == "dds":
        score = jax.grad(normal.pull_back(place, finite))
        how: dict[str, Any] = {"score_clip": plan.score_clip, "stop_score": plan.stop_score}
        network = networks.mlp(target.dim, score, width=numbers.width, depth=numbers.depth, **how)
        family = families.dds(network, schedules.cosine(numbers.steps, total=numbers.noise), place)
    else:
        fractions = schedules.constant(numbers.steps, total=numbers.noise)
        shape = {"width": numbers.width, "depth": numbers.depth, "features": 4 if numbers.width else 0}
        family = families.learned(finite, fractions, inside, **shape)
    if plan.points is None:
        loss = partial(losses.reverse_kl, log_density=finite, paths=numbers.batch)
    else:
        loss = partial(losses.forward_kl, log_density=finite, points=plan.points, paths=numbers.batch)
    warm_up = min(100, numbers.updates // 10)
    rate, length = numbers.learning_rate, max(numbers.updates, warm_up + 1)
    rates = optax.warmup_cosine_decay_schedule(rate / 20, rate, warm_up, length, rate / 100)
    return Recipe(
        family,
        loss,
        optax.chain(observed_norm(), optax.clip_by_global_norm(1.0), optax.adam(rates)),
        numbers.updates,
        plan.why,
        "ELBO" if plan.points is None else "EUBO",
        (plan.evaluations, numbers.updates * numbers.batch * (numbers.steps + 2)),
        plan,
    )


def observed_norm() -> optax.GradientTransformation:
    """Leaves gradients as they are, and keeps the global norm of the last: the first part of the optimiser's state.

    Returns:
        The transformation.

    Example:
        >>> keep = observed_norm()
        >>> float(keep.update(jnp.array([3.0, 4.0]), keep.init(jnp.zeros(2)))[1])
        5.0
    """

    def update(updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None):
        return updates, optax.tree.norm(updates)

    return optax.GradientTransformation(lambda params: jnp.zeros(()), update)


@typed
def describe(plan: Plan) -> dict[str, Any]:
    """A plan without its arrays, as what JSON can hold: with them, `template` brings it back.

    Args:
        plan: The plan.

    Returns:
        The description.

    Example:
        >>> plan = Plan(
        ...     "network", "an example", DEFAULTS["network"], normal.standard(2)
        ... )
        >>> template(describe(plan)).numbers == plan.numbers
        True
    """
    named = arrays_of(plan)
    shapes = {
        name: None if tree is None else [[list(x.shape), x.dtype.name] for x in jax.tree.leaves(tree)]
        for name, tree in named.items()
    }
    rest: dict[str, Any] = plan._asdict() | {"numbers": plan.numbers._asdict()}
    return {name: value for name, value in rest.items() if name not in ARRAYS} | {"arrays": shapes}


@typed
def template(description: dict[str, Any]) -> Plan:
    """A plan of a description, with zeros for its arrays.

    Args:
        description: What `describe` made.

    Returns:
        The plan.

    Example:
        >>> template(
        ...     describe(
        ...         Plan("gates", "an example", DEFAULTS["gates"], normal.standard(2))
        ...     )
        ... ).kind
        'gates'
    """
    rest = {name: value for name, value in description.items() if name != "arrays"}
    kinds: dict[str, Any] = {"coordinates": Normal, "points": lambda points: points, "prior": _prior, "neck": _neck}
    shapes = description["arrays"]
    arrays = {name: shapes[name] and kinds[name](*(jnp.zeros(*leaf) for leaf in shapes[name])) for name in ARRAYS}
    rest |= {"numbers": Numbers(**rest["numbers"])}
    return Plan(**rest, **arrays)


def _prior(log_shares: Array, means: Array, scales: Array, freedom: Array, *rotation: Array) -> Mixture | Product:
    mixture = Mixture(log_shares, means, scales, freedom)
    return mixture if log_shares.ndim == 1 else Product(mixture, *rotation)


def _neck(order: Array, shear: Array, mean: Array, scale: Array, *rest: Array) -> Neck:
    return Neck(order, shear, Normal(mean, scale), *rest)


@typed
def arrays_of(plan: Plan) -> dict[str, Any]:
    """The arrays of a plan, by name: what `describe` leaves out.

    Args:
        plan: The plan.

    Returns:
        The arrays.

    Example:
        >>> sorted(
        ...     arrays_of(
        ...         Plan("gates", "an example", DEFAULTS["gates"], normal.standard(2))
        ...     )
        ... )
        ['coordinates', 'neck', 'points', 'prior']
    """
    return {name: getattr(plan, name) for name in ARRAYS}


@typed
def check(numbers: Mapping[str, Any], kernel: str, loss: str | None) -> None:
    """Whether numbers are in their ranges and fit in memory, whichever kind of recipe will be chosen.

    Args:
        numbers: Numbers by the names of `Numbers`.
        kernel: As in `choose`.
        loss: As in `choose`.

    Raises:
        ValueError: If not so.

    Example:
        >>> check({"steps": 0}, "learned", None)
        Traceback (most recent call last):
        ValueError: steps must be at least 1, got 0.
    """
    unknown = sorted(set(numbers) - set(Numbers._fields))
    require(not unknown, "numbers", unknown, f"of {', '.join(Numbers._fields)}")
    for name in ("steps", "updates", "batch", "depth"):
        require(name not in numbers or numbers[name] >= 1, name, numbers.get(name), "at least 1")
    least = int(kernel == "dds")
    require(numbers.get("width", least) >= least, "width", numbers.get("width"), f"at least {least}")
    rate = numbers.get("learning_rate", 1.0)
    require(0 < rate < float("inf"), "learning_rate", rate, "positive and finite")
    require(kernel == "learned" or loss != "forward", "loss", loss, "reverse with the dds kernel")
    for kind, default in DEFAULTS.items():
        if (kind == "dds") == (kernel == "dds"):
            all_numbers = default._replace(**numbers)
            _require_memory(all_numbers, 1)
            (schedules.cosine if kind == "dds" else schedules.constant)(all_numbers.steps, total=all_numbers.noise)


def _require_memory(numbers: Numbers, dim: int) -> None:
    """Refuses a training whose states and parameters are larger than the memory of the machine."""
    states = 4 * numbers.batch * numbers.steps * dim * 8
    parameters = 4 * 4 * (numbers.steps * (numbers.depth * numbers.width + 40 * dim) + numbers.width**2 * numbers.depth)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    came = f"{numbers.steps} x {numbers.batch} paths of {dim} dimensions: about {(states + parameters) / 2**30:.0f} GiB"
    require(states + parameters < memory, "steps and batch", came, f"less than the {memory / 2**30:.0f} GiB of memory")
