"""One path of a sampler from one key, in either direction. Batches are made by `jax.vmap` over keys."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dds import mixtures, normal
from dds.checks import require, typed
from dds.types import (
    KeyArray,
    LogDensity,
    Noise,
    Normal,
    Path,
    Point,
    Potentials,
    Prior,
    Row,
    Sampler,
    Scalar,
    State,
    Transitions,
)


class Visit(NamedTuple):
    """A state of a path and what the kernel says there, evaluated once.

    Attributes:
        state: The state `y_k`.
        transitions: The distributions of the steps that meet at it.
    """

    state: State
    transitions: Transitions


class Increment(NamedTuple):
    """What one step adds to the log weight: `log_backward - log_forward`.

    Attributes:
        log_forward: `log F_k / R_k`.
        log_backward: `log B_k / R*_k`.
    """

    log_forward: Scalar
    log_backward: Scalar


@typed
def first_visit(sampler: Sampler, noise: Noise) -> Visit:
    """The first state of a path, drawn from the prior.

    Args:
        sampler: The sampler.
        noise: Standard normal noise, `dds.mixtures.noise_size` numbers for the prior.

    Returns:
        The state, with the kernel's transitions there.

    Raises:
        ValueError: If the kernel returns something else.

    Example:
        >>> from dds import families, schedules
        >>> fixed = families.importance(normal.standard(2))
        >>> first_visit(
        ...     fixed.sampler(fixed.init(jax.random.key(0))), jnp.ones(2)
        ... ).state.tolist()
        [1.0, 1.0]
    """
    state = mixtures.draw(sampler.prior, noise)
    transitions = sampler.kernel.apply(state, jax.tree.map(lambda row: row[0], sampler.kernel.rows))
    is_one = isinstance(transitions, Transitions)
    require(is_one, "what the kernel returns", f"a {type(transitions).__name__}", "Transitions")
    return Visit(state, transitions)


@typed
def step(sampler: Sampler, visit: Visit, row: tuple[Row, Row], noise: Point) -> tuple[Visit, Increment]:
    r"""One step of a path: draws $\zeta_k \sim F_k$, moves, evaluates the kernel where it arrives, and weighs the step.

    `sample_path` is a scan of it. With resampling between the steps the same scan is sequential Monte Carlo along the
    path: with potentials $G_k$ of the states, $G_0 = p_0 / \pi_0$ and $G_K = \gamma / \pi_K$, a step adds
    $\log G_{k+1}(y_{k+1}) - \log G_k(y_k)$ and its increment to the log weight.

    Args:
        sampler: The sampler.
        visit: The state that is left, of `first_visit` or the step before.
        row: The row of the reference for this step and that of the kernel for the state where it arrives: a row of
            `step_rows`.
        noise: Standard normal noise, one number per coordinate of a point.

    Returns:
        The state where it arrives, with the kernel's transitions there, and what the step adds to the log weight.

    Example:
        >>> from dds import families, schedules
        >>> family = families.learned(
        ...     lambda x: -jnp.sum(x**2), schedules.constant(4, total=2.0), 2, width=8
        ... )
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> row = jax.tree.map(lambda rows: rows[0], step_rows(sampler))
        >>> visit, increment = step(
        ...     sampler, first_visit(sampler, jnp.ones(2)), row, jnp.zeros(2)
        ... )
        >>> visit.state.shape, increment.log_forward.shape
        ((2,), ())
    """
    reference_row, kernel_row = row
    forward, _, scored = visit.transitions
    ahead = normal.reparameterise(forward, noise)
    state, back = sampler.reference.ahead(visit.state, ahead, reference_row)
    arrived = Visit(state, sampler.kernel.apply(state, kernel_row))
    log_forward = _log_departure(forward if scored is None else scored, ahead)
    return arrived, Increment(log_forward, _log_departure(arrived.transitions.backward, back))


@typed
def step_rows(sampler: Sampler) -> tuple[Row, Row]:
    """What `step` needs to know of each step: PyTrees with leading axis `K`, to be scanned over.

    Args:
        sampler: The sampler.

    Returns:
        The rows of the reference, and those of the kernel for the states where the steps arrive.

    Raises:
        ValueError: If the rows of the kernel do not have one entry per state.

    Example:
        >>> from dds import families
        >>> fixed = families.importance(normal.standard(2))
        >>> jax.tree.leaves(step_rows(fixed.sampler(fixed.init(jax.random.key(0)))))[
        ...     0
        ... ].shape
        (0,)
    """
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(sampler.kernel.rows)}
    states = steps(sampler) + 1
    expected = f"one more than the number of steps, {states}"
    require(lengths == {(states,)}, "the leading axis of the kernel's rows", sorted(lengths), expected)
    return sampler.reference.rows, jax.tree.map(lambda row: row[1:], sampler.kernel.rows)


@typed
def steps(sampler: Sampler) -> int:
    """The number of steps `K` of a sampler.

    Args:
        sampler: The sampler.

    Returns:
        The number.

    Example:
        >>> from dds import families
        >>> fixed = families.importance(normal.standard(2))
        >>> steps(fixed.sampler(fixed.init(jax.random.key(0))))
        0
    """
    return len(jax.tree.leaves(sampler.reference.rows)[0])


@typed
def sample_path(key: KeyArray, sampler: Sampler, *, stick_the_landing: bool = False) -> Path:
    r"""Draws a path, $y_0 \sim p_0$, $y_{k+1} \sim F_k(\cdot \mid y_k)$.

    The kernel is evaluated once at each state. Under differentiation its activations are computed again, not stored:
    faster on a CPU, and the memory does not grow with the size of the network times the number of steps.

    Args:
        key: The random key of the path.
        sampler: The sampler.
        stick_the_landing: Whether `log_prior` and `log_forward` take the parameters of prior and kernel as constants
            (the states still vary): then the gradient of `-log w` is the *sticking-the-landing* gradient, with the same
            mean and less variance the better the sampler is. Values are the same. Whatever the kernel closes over
            counts as parameter.

    Returns:
        The path; `x` is its end in the user's coordinates.

    Raises:
        ValueError: If the rows of the kernel do not have one entry per state.

    References:
        Vargas, Grathwohl and Doucet (2023), section 3; Roeder, Wu and Duvenaud (2017) for sticking the landing.

    Example:
        >>> from dds import families
        >>> fixed = families.importance(normal.standard(2))
        >>> path = sample_path(
        ...     jax.random.key(0), fixed.sampler(fixed.init(jax.random.key(0)))
        ... )
        >>> path.states.shape, path.x.shape
        ((1, 2), (2,))
    """
    noise = jax.random.normal(key, (noise_size(sampler),), sampler.reference.start.mean.dtype)
    return path_of_noise(noise, sampler, stick_the_landing=stick_the_landing)


@typed
def noise_size(sampler: Sampler) -> int:
    """How many standard normal numbers a path of a sampler is made of.

    Args:
        sampler: The sampler.

    Returns:
        The number.

    Example:
        >>> from dds import families
        >>> fixed = families.importance(normal.standard(2))
        >>> noise_size(fixed.sampler(fixed.init(jax.random.key(0))))
        2
    """
    return mixtures.noise_size(sampler.prior) + steps(sampler) * _dim(sampler)


@typed
def cut_noise(noise: Noise, sampler: Sampler) -> tuple[Float[Array, " first"], Float[Array, "steps dim"]]:
    """The noise of a path in its parts: that of the prior, and a row for each step.

    Args:
        noise: Standard normal noise, `noise_size` numbers.
        sampler: The sampler.

    Returns:
        The parts.

    Raises:
        ValueError: If there is more or less noise.

    Example:
        >>> from dds import families
        >>> fixed = families.importance(normal.standard(2))
        >>> sampler = fixed.sampler(fixed.init(jax.random.key(0)))
        >>> [part.shape for part in cut_noise(jnp.zeros(2), sampler)]
        [(2,), (0, 2)]
    """
    size = noise_size(sampler)
    require(noise.size == size, "the size of noise", noise.size, f"{size}")
    first, rest = jnp.split(noise, [mixtures.noise_size(sampler.prior)])
    # The long axis last: XLA's CPU code for the generator runs along it in vector instructions, and compiles faster.
    return first, rest.reshape(_dim(sampler), -1).T


@typed
def path_of_noise(noise: Noise, sampler: Sampler, *, stick_the_landing: bool = False) -> Path:
    r"""The path that a sampler makes of given noise: noise is a coordinate.

    With $e$ the noise, $\mathcal N(e; 0, I)\, w(e)$ is an unnormalised density with the integral $Z$, and its draws are
    paths that end in the target: see `dds.smc.refine`.

    Args:
        noise: Standard normal noise, `noise_size` numbers: first those of the prior.
        sampler: The sampler.
        stick_the_landing: As in `sample_path`.

    Returns:
        The path.

    Raises:
        ValueError: As in `sample_path`, and if there is more or less noise.

    Example:
        >>> from dds import families
        >>> fixed = families.importance(Normal(jnp.ones(2), jnp.array(2.0)))
        >>> path_of_noise(
        ...     jnp.ones(2), fixed.sampler(fixed.init(jax.random.key(0)))
        ... ).x.tolist()
        [3.0, 3.0]
    """
    rows, prior = step_rows(sampler), sampler.prior
    first, rest = cut_noise(noise, sampler)
    if stick_the_landing:
        sampler, prior = _with_constants_scored(sampler), jax.lax.stop_gradient(prior)

    def move(visit: Visit, inputs):
        after, increment = step(sampler, visit, *inputs)
        return after, (after.state, increment)

    start = first_visit(sampler, first)
    _, (states, increments) = jax.lax.scan(jax.checkpoint(move, prevent_cse=False), start, (rows, rest))
    states = jnp.concatenate([start.state[None], states])
    return _path(sampler, prior, states, increments, *_point(sampler, states[-1]))


def _with_constants_scored(sampler: Sampler) -> Sampler:
    first = jax.tree.map(lambda row: row[0], sampler.kernel.rows)
    apply, captured = jax.closure_convert(sampler.kernel.apply, sampler.reference.start.mean, first)

    def both(y: State, row: Row) -> Transitions:
        # Compiled, the two are evaluated as one: they differ in their gradients alone.
        constant = apply(y, *jax.lax.stop_gradient((row, *captured)))
        return apply(y, row, *captured)._replace(scored=constant.forward)

    return sampler._replace(kernel=sampler.kernel._replace(apply=both))


@typed
def noise_path(key: KeyArray, sampler: Sampler, x: State) -> Path:
    r"""Runs the noising process from a point of the target to the prior, $y_k \sim B_k(\cdot \mid y_{k+1})$.

    Over points of the target $\mathbb E[1/w] = 1/Z$, and the weights also see what the sampler's own paths miss. The
    kernel is evaluated once at each state.

    Args:
        key: The random key of the path.
        sampler: The sampler whose noising kernels are wanted.
        x: The end of the path, in the user's coordinates.

    Returns:
        The path, in sampling order.

    Raises:
        ValueError: If the rows of the kernel do not have one entry per state.

    Example:
        >>> from dds import families
        >>> fixed = families.importance(normal.standard(3))
        >>> noise_path(
        ...     jax.random.key(0),
        ...     fixed.sampler(fixed.init(jax.random.key(0))),
        ...     jnp.ones(3),
        ... ).states.tolist()
        [[1.0, 1.0, 1.0]]
    """
    step_rows(sampler)  # are they of the right length?
    size, dim = sampler.reference.start.mean.size, _dim(sampler)
    noise = jax.random.normal(key, (steps(sampler) * dim + size - dim,), sampler.reference.start.mean.dtype)
    noise, momentum = jnp.split(noise, [steps(sampler) * dim])
    position, determinant = normal.bijection(sampler.coordinates).inverse(jnp.asarray(x))
    end = jnp.concatenate([position, momentum])
    here, last = (jax.tree.map(lambda row, at=at: row[at], sampler.kernel.rows) for at in (slice(None, -1), -1))

    def move(visit: Visit, inputs):
        reference_row, kernel_row, noise = inputs
        backward = visit.transitions.backward
        back = noise if backward is None else normal.reparameterise(backward, noise)
        state, ahead = sampler.reference.back(visit.state, back, reference_row)
        transitions = sampler.kernel.apply(state, kernel_row)
        increment = Increment(_log_departure(transitions.forward, ahead), _log_departure(backward, back))
        return Visit(state, transitions), (state, increment)

    start = Visit(end, sampler.kernel.apply(end, last))
    inputs = (sampler.reference.rows, here, noise.reshape(dim, -1).T)
    _, (states, increments) = jax.lax.scan(jax.checkpoint(move, prevent_cse=False), start, inputs, reverse=True)
    states = jnp.concatenate([states, end[None]])
    return _path(sampler, sampler.prior, states, increments, jnp.asarray(x), determinant)


@typed
def retrace(states: Float[Array, " states size"], sampler: Sampler) -> Path:
    r"""Evaluates a sampler along given states, all steps at once: no scan, nothing stored between steps.

    On states cut from the gradient by `jax.lax.stop_gradient` it gives the log-variance loss. Innovations are had by
    subtraction, so in 32 bits each has a rounding error of about $10^{-7} \lvert y \rvert / \sqrt{b_k}$.

    Args:
        states: `y_0, ..., y_K`, in the coordinates of the sampler: `Path.states`.
        sampler: The sampler.

    Returns:
        The path.

    Raises:
        ValueError: If there is not one state more than the sampler has steps, or a state has another dimension.

    Example:
        >>> from dds import families
        >>> fixed = families.importance(normal.standard(2))
        >>> sampler = fixed.sampler(fixed.init(jax.random.key(0)))
        >>> path = sample_path(jax.random.key(0), sampler)
        >>> bool(retrace(path.states, sampler).log_reference == path.log_reference)
        True
    """
    step_rows(sampler)  # are they of the right length?
    shape = (steps(sampler) + 1, sampler.reference.start.mean.size)
    require(states.shape == shape, "the shape of states", states.shape, f"{shape}, one state more than steps")
    transitions = jax.vmap(sampler.kernel.apply)(states, sampler.kernel.rows)
    ahead, back = jax.vmap(sampler.reference.innovations)(states[:-1], states[1:], sampler.reference.rows)
    forward = jax.tree.map(lambda leaf: leaf[:-1], transitions.forward)
    backward = jax.tree.map(lambda leaf: leaf[1:], transitions.backward)
    increments = Increment(*(jax.vmap(_log_departure)(*pair) for pair in ((forward, ahead), (backward, back))))
    return _path(sampler, sampler.prior, states, increments, *_point(sampler, states[-1]))


@typed
def positions(states: Float[Array, " states size"], sampler: Sampler) -> Float[Array, " states dim"]:
    """The states of a path in the user's coordinates, without momenta: for pictures.

    Args:
        states: The states, `Path.states`.
        sampler: The sampler.

    Returns:
        The points, one per state.

    Example:
        >>> from dds import families
        >>> fixed = families.importance(Normal(jnp.ones(2), jnp.array(2.0)))
        >>> positions(
        ...     jnp.ones((1, 2)), fixed.sampler(fixed.init(jax.random.key(0)))
        ... ).tolist()
        [[3.0, 3.0]]
    """
    return jax.vmap(lambda y: _point(sampler, y)[0])(states)


@typed
def potentials(sampler: Sampler) -> Potentials:
    """The potentials of a sampler, which must have some.

    Args:
        sampler: The sampler.

    Returns:
        Its potentials.

    Raises:
        ValueError: If it has none.

    Example:
        >>> from dds import families
        >>> plain = families.importance(normal.standard(2))
        >>> family = families.with_potentials(plain, lambda x: -jnp.sum(x**2))
        >>> params = family.init(jax.random.key(0))
        >>> float(potentials(family.sampler(params)).log_z)
        0.0
    """
    found = sampler.potentials
    require(found is not None, "the potentials of the sampler", None, "of dds.families.with_potentials")
    assert found is not None
    return found


@typed
def end_potential(sampler: Sampler, y: State, log_density: LogDensity) -> Scalar:
    r"""What the target is to the reference where a path ends, $\log \gamma(x) / \pi_K(x)$.

    It is the last of the potentials of `step`, and can be evaluated at any state.

    Args:
        sampler: The sampler.
        y: A state, in the coordinates of the sampler.
        log_density: The log density of the target.

    Returns:
        The log ratio.

    Example:
        >>> from dds import families
        >>> fixed = families.importance(normal.standard(2))
        >>> sampler = fixed.sampler(fixed.init(jax.random.key(0)))
        >>> def log_density(x):
        ...     return normal.log_density(normal.standard(2), x) + 3
        >>> float(end_potential(sampler, jnp.ones(2), log_density))
        3.0
    """
    x, log_determinant = _point(sampler, y)
    return log_density(x) + log_determinant + _log_momentum(y[x.size :]) - normal.log_density(sampler.reference.end, y)


@typed
def pull_back(sampler: Sampler, covector: State) -> Float[Array, "steps point"]:
    r"""What a gradient where paths end is for the noise of each step of the reference, $J_k^\top v$.

    A reference is linear: $J_k = \partial y_K / \partial \zeta_k$ is the same on all of its paths, and the rows are the
    states of its adjoint equation.

    Args:
        sampler: The sampler.
        covector: The gradient $v$, in the coordinates of the sampler.

    Returns:
        A row for each step.

    Example:
        >>> from dds import families, networks
        >>> family = families.pis(networks.mlp(1, lambda y: -y), 3, normal.standard(1))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> pull_back(sampler, jnp.ones(1)).round(4).tolist()
        [[0.5], [0.5], [0.5]]
    """
    reference = sampler.reference
    zeros = jnp.zeros((steps(sampler), _dim(sampler)), covector.dtype)

    def end(noise: Array) -> State:
        def move(y, inputs):
            return reference.ahead(y, *inputs)[0], None

        return jax.lax.scan(move, jnp.zeros_like(covector), (noise, reference.rows))[0]

    return jax.vjp(end, zeros)[1](covector)[0]


def _dim(sampler: Sampler) -> int:
    return normal.bijection(sampler.coordinates).dim


def _point(sampler: Sampler, y: State) -> tuple[Point, Scalar]:
    return normal.bijection(sampler.coordinates).forward(y[: _dim(sampler)])


def _path(sampler: Sampler, prior: Prior, states, increments: Increment, x: Point, log_determinant: Scalar) -> Path:
    reference, end = sampler.reference, states[-1]
    ratio = normal.log_ratio(reference.start, reference.end, states[0], end)
    log_prior = mixtures.log_density(prior, states[0])
    return Path(states, x, log_prior, ratio + _log_momentum(end[x.size :]) + log_determinant, *increments)


def _log_momentum(momentum: Float[Array, " momentum"]) -> Scalar:
    """The log density of the further coordinates of a state, which are standard normal in the target."""
    return normal.log_density(Normal(jnp.zeros_like(momentum), jnp.ones((), momentum.dtype)), momentum)


def _log_departure(distribution: Normal | None, innovation: State) -> Scalar:
    """How much likelier an innovation is under a distribution than under the reference process."""
    standard = Normal(jnp.zeros_like(innovation), jnp.ones((), innovation.dtype))
    if distribution is None:
        return jnp.zeros((), innovation.dtype)
    return normal.log_ratio(distribution, standard, innovation)
