r"""A buffer of points that a sampler has drawn, to train on again.

Its weights can be compared although samplers change in training: whatever the sampler, the mean of $w$ is $Z$. So
points chosen in proportion to $w$ are like draws of the target, those of rare modes among them. It is a PyTree of
arrays of fixed size, part of the state of training (`memory` of `dds.training.fit`), and is saved and resumed with it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dds import devices, estimators, origins
from dds.checks import require, typed
from dds.losses import log_weight
from dds.paths import retrace
from dds.types import KeyArray, LogDensity, LossWithMemory, Sampler, Scalar, State

Points: TypeAlias = Float[Array, "count dim"]
"""Points of a buffer."""


class Buffer(NamedTuple):
    """Points with their log weights, the newest in place of the oldest.

    Attributes:
        points: The points, in the user's coordinates.
        log_weights: The log weights of the paths that ended there.
        added: How many points were ever added.
    """

    points: Float[Array, "size dim"]
    log_weights: Float[Array, " size"]
    added: Int[Array, ""]


@typed
def start(key: KeyArray, sampler: Sampler, log_density: LogDensity, size: int) -> Buffer:
    """A buffer, full of points of a sampler.

    Args:
        key: The random key.
        sampler: The sampler, untrained or of any other kind.
        log_density: The log density of the target.
        size: The number of points, at least 1.

    Returns:
        The buffer.

    Raises:
        ValueError: If `size` is below 1.

    Example:
        >>> from dds import families, normal
        >>> family = families.importance(normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> start(jax.random.key(1), sampler, lambda x: -x @ x, 10).points.shape
        (10, 2)
    """
    require(size >= 1, "size", size, "at least 1")
    points, log_weights = jax.jit(lambda key: _ends(sampler, origins.own(sampler, key, size), log_density))(key)
    return Buffer(points, log_weights, jnp.asarray(size))


@typed
def add(buffer: Buffer, points: Float[Array, "more dim"], log_weights: Float[Array, " more"]) -> Buffer:
    """The buffer with more points, in place of the oldest.

    Args:
        buffer: The buffer.
        points: The points, no more than the buffer holds.
        log_weights: Their log weights; points whose weight is not finite are never chosen.

    Returns:
        The buffer.

    Raises:
        ValueError: If there are more points than the buffer holds.

    Example:
        >>> buffer = Buffer(jnp.zeros((3, 1)), jnp.zeros(3), jnp.asarray(5))
        >>> add(buffer, jnp.ones((2, 1)), jnp.zeros(2)).points.ravel().tolist()
        [1.0, 0.0, 1.0]
    """
    size = len(buffer.points)
    require(len(points) <= size, "the number of points", len(points), f"at most {size}, what the buffer holds")
    places = (buffer.added + jnp.arange(len(points))) % size
    return Buffer(
        buffer.points.at[places].set(points),
        buffer.log_weights.at[places].set(log_weights),
        buffer.added + len(points),
    )


@typed
def choose(key: KeyArray, buffer: Buffer, count: int, *, power: float = 1.0) -> Float[Array, "count dim"]:
    """Points of a buffer, drawn with replacement by systematic resampling.

    Args:
        key: The random key.
        buffer: The buffer.
        count: The number of points.
        power: A point is drawn with a probability in proportion to this power of its weight, at least 0: all alike at
            0, like draws of the target at 1.

    Returns:
        The points.

    Raises:
        ValueError: If `power` is negative.

    Example:
        >>> log_w = jnp.array([-jnp.inf, 0.0])
        >>> buffer = Buffer(jnp.arange(2.0)[:, None], log_w, jnp.asarray(2))
        >>> choose(jax.random.key(0), buffer, 3).ravel().tolist()
        [1.0, 1.0, 1.0]
    """
    require(0 <= power < float("inf"), "power", power, "at least 0 and finite")
    log_w = jnp.where(jnp.isfinite(buffer.log_weights), power * buffer.log_weights, -jnp.inf)
    return buffer.points[estimators.resample(key, log_w, count)]


@typed
def langevin(log_density: LogDensity, *, moves: int, step: float) -> Callable[[KeyArray, Points], Points]:
    r"""Moves that leave the target as it is, for points of a buffer: a local search around them.

    Metropolis-adjusted Langevin moves, $x' = x + \frac{h^2}{2} \nabla \log \gamma(x) + h\,\epsilon$.

    Args:
        log_density: The log density of the target.
        moves: The number of moves, at least 1.
        step: The step $h$, in the units of the points, positive: about the least standard deviation of a mode.

    Returns:
        A function of a random key and points.

    Raises:
        ValueError: If a number is out of its range.

    References:
        Roberts and Tweedie (1996), Exponential convergence of Langevin distributions and their discrete approximations.

    Example:
        >>> move = langevin(lambda x: -(x @ x) / 2, moves=100, step=1.0)
        >>> moved = move(jax.random.key(0), jnp.full((1000, 1), 5.0))
        >>> abs(float(jnp.mean(moved))) < 0.2
        True
    """
    require(moves >= 1, "moves", moves, "at least 1")
    require(0 < step < float("inf"), "step", step, "positive and finite")
    at = jax.value_and_grad(log_density)

    def once(key: KeyArray, x: State, value: Scalar, score: State) -> tuple[State, Scalar, State]:
        noise_key, accept_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        there = x + 0.5 * step**2 * score + step * noise
        value_there, score_there = at(there)
        back = (x - there - 0.5 * step**2 * score_there) / step
        log_rate = value_there - value + 0.5 * (jnp.sum(noise**2) - jnp.sum(back**2))
        # A rate that is not a number is no reason to go there.
        accepted = jnp.log(jax.random.uniform(accept_key, dtype=x.dtype)) < log_rate
        return jax.tree.map(partial(jnp.where, accepted), (there, value_there, score_there), (x, value, score))

    def chain(key: KeyArray, x: State) -> State:
        keys = jax.random.split(key, moves)
        return jax.lax.scan(lambda carry, key: (once(key, *carry), None), (x, *at(x)), keys)[0][0]

    def move(key: KeyArray, points: Points) -> Points:
        return devices.share(chain)(jax.random.split(key, len(points)), points)

    return move


@typed
def replayed(
    loss: Callable[..., Scalar],
    *,
    log_density: LogDensity,
    paths: int,
    share: float = 0.5,
    power: float = 1.0,
    move: Callable[[KeyArray, Points], Points] | None = None,
) -> LossWithMemory:
    """A loss over the sampler's own paths, which are added to a buffer, and over paths that end in points of it.

    Args:
        loss: One that takes paths of any origin, as `dds.losses.trajectory_balance`.
        log_density: The log density of the target.
        paths: The number of paths, at least 2.
        share: The share of those that end in points of the buffer, in (0, 1).
        power: As in `choose`.
        move: What is done to the points that were chosen, if anything: moves of `langevin`, or your own.

    Returns:
        The loss, for `dds.training.fit` with `memory` a `Buffer`.

    Raises:
        ValueError: If a number is out of its range.

    References:
        Sendera, Kim, Mittal, Lemos, Scimeca, Rector-Brooks, Adam, Bengio and Malkin (2024), Improved off-policy
        training of diffusion samplers, for the buffer and the moves; there drawn from by the density, here by the
        weights.

    Example:
        >>> from dds import families, losses, normal
        >>> family = families.importance(normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> buffer = start(jax.random.key(1), sampler, lambda x: -x @ x, 10)
        >>> both = replayed(losses.log_variance, log_density=lambda x: -x @ x, paths=4)
        >>> value, buffer = both(sampler, jax.random.key(2), buffer)
        >>> int(buffer.added)
        12
    """
    old = round(share * paths)
    require(0 < old < paths, "share", share, f"such that of {paths} paths one or more are of either kind")
    require(0 <= power < float("inf"), "power", power, "at least 0 and finite")

    def run(sampler: Sampler, key: KeyArray, buffer: Buffer) -> tuple[Scalar, Buffer]:
        own_key, choose_key, move_key, noise_key = jax.random.split(key, 4)
        fresh = origins.own(sampler, own_key, paths - old)
        points = choose(choose_key, buffer, old, power=power)
        again = origins.back_from(sampler, noise_key, points if move is None else move(move_key, points))
        states = jax.lax.stop_gradient(jnp.concatenate([fresh, again]))
        value = loss(sampler, key, log_density=log_density, paths=paths, origin=lambda *_: states)
        ends = _ends(sampler, states[: paths - old], log_density)
        return value, add(buffer, *jax.lax.stop_gradient(ends))

    return run


def _ends(sampler: Sampler, states: Float[Array, "paths states size"], log_density: LogDensity):
    """Where paths end, and their log weights."""

    def one(states):
        path = retrace(states, sampler)
        return path.x, log_weight(path, log_density)

    return devices.share(one)(states)
