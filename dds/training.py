"""Training: an optax loop, compiled in blocks of many updates, that can be stopped and resumed at any of their ends."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from dds import devices
from dds.checks import require, require_scalar, typed
from dds.compiling import split
from dds.types import Family, KeyArray, Loss, LossWithMemory, Params, Scalar


class TrainingState(NamedTuple):
    """All that training depends on.

    Attributes:
        params: The parameters.
        optimiser: The state of the optimiser, including what was skipped.
        key: The key of the whole training: update `i` uses it folded with `i`.
        updates: The number of updates done, skipped ones included.
        memory: What the loss remembers, as of `dds.replay.start`; nothing where it does not.
    """

    params: Params
    optimiser: Any
    key: KeyArray
    updates: Int[Array, ""]
    memory: Any = ()

    @property
    def skipped(self) -> int:
        """The number of updates that were skipped because their gradient was not finite."""
        return int(self.optimiser.total_notfinite)


class Fit(NamedTuple):
    """What training returns.

    Attributes:
        params: The trained parameters.
        losses: The loss at each update of this run.
        state: Where training stands: give it to `resume` to go on, or save it.
    """

    params: Params
    losses: Float[np.ndarray, " updates"]
    state: TrainingState


Callback = Callable[[TrainingState, Float[np.ndarray, " block"]], bool | None]
"""What is called between blocks of updates, with the state and the losses of the block; `True` stops the training."""


@typed
def fit(
    key: KeyArray,
    family: Family,
    loss: Loss | LossWithMemory,
    optimiser: optax.GradientTransformation,
    updates: int,
    *,
    params: Params = None,
    memory: Any = (),
    block: int = 100,
    callback: Callback | None = None,
) -> Fit:
    """Trains a family of samplers: minimises a loss of the sampler over its parameters.

    Args:
        key: The random key of the whole training.
        family: What is trained.
        loss: The loss of a sampler and a key, to be compiled and differentiated.
        optimiser: Any optax optimiser.
        updates: The number of updates; 0 for what needs no training.
        params: Parameters to start from, copied; by default those of `family.init`.
        memory: What a loss with a memory starts from, a PyTree of arrays: it is then called with the sampler, a key and
            its memory, and returns its value and the memory for the next update.
        block: The number of updates in a row in compiled code, at least 1. It does not change the result.
        callback: Called between blocks with the state and the losses of the block; training stops if it returns
            `True`. The state is valid until it returns, for its memory is then used again: copy what you keep.

    Returns:
        The parameters, the losses and the state to resume from. Updates whose gradient is not finite leave parameters
        and optimiser as they are, and are counted in `state.skipped`; it warns if they are more than half.

    Raises:
        ValueError: If `updates` is below 0 or `block` below 1, `params` are not like those of the family, or `loss`
            does not return a floating-point scalar, and a memory like that which it was given, or has no gradient.

    Example:
        >>> family = Family(
        ...     lambda key: jnp.ones(2), lambda params: params
        ... )  # a toy: no sampler at all
        >>> def loss(sampler, key):
        ...     return jnp.sum((sampler - jax.random.normal(key, (2,))) ** 2)
        >>> run = fit(jax.random.key(0), family, loss, optax.sgd(0.01), 500)
        >>> run.losses.shape, bool(jnp.all(jnp.abs(run.params) < 0.5))
        ((500,), True)
    """
    first = start(key, family, optimiser, params=params, memory=memory)
    return resume(first, family, loss, optimiser, updates, block=block, callback=callback)


@typed
def start(
    key: KeyArray,
    family: Family,
    optimiser: optax.GradientTransformation,
    *,
    params: Params = None,
    memory: Any = (),
) -> TrainingState:
    """The state before the first update.

    Args:
        key: The random key of the whole training.
        family: What is trained.
        optimiser: The optimiser.
        params: Parameters to start from; by default those of `family.init`.
        memory: As in `fit`.

    Returns:
        The state: also a template for `dds.storage.load`.

    Raises:
        ValueError: If `params` are not like those of the family.

    Example:
        >>> family = Family(lambda key: jnp.ones(2), lambda params: params)
        >>> int(start(jax.random.key(0), family, optax.sgd(0.01)).updates)
        0
    """
    init_key, updates_key = split(key)
    if params is None:
        params = family.init(init_key)
    else:
        _require_like("params", params, jax.eval_shape(family.init, init_key))
    return TrainingState(params, _guard(optimiser).init(params), updates_key, jnp.zeros((), int), memory)


@typed
def resume(
    state: TrainingState,
    family: Family,
    loss: Loss | LossWithMemory,
    optimiser: optax.GradientTransformation,
    updates: int,
    *,
    block: int = 100,
    callback: Callback | None = None,
) -> Fit:
    """Goes on from a state: two runs of `n` updates give, bit for bit, what one run of `2 n` gives.

    Args:
        state: Where training stands; it is copied, and stays yours.
        family: The same family as before.
        loss: As in `fit`.
        optimiser: The same optimiser as before.
        updates: The number of updates to add.
        block: As in `fit`.
        callback: As in `fit`.

    Returns:
        As `fit`; the losses are those of the added updates.

    Raises:
        ValueError: As `fit`, and if the state is that of another family or another optimiser.

    Example:
        >>> family = Family(lambda key: jnp.ones(2), lambda params: params)
        >>> def loss(sampler, key):
        ...     return jnp.sum((sampler - jax.random.normal(key, (2,))) ** 2)
        >>> first = fit(jax.random.key(0), family, loss, optax.adam(0.1), 10)
        >>> second = resume(first.state, family, loss, optax.adam(0.1), 10)
        >>> whole = fit(jax.random.key(0), family, loss, optax.adam(0.1), 20)
        >>> bool(jnp.all(second.params == whole.params))
        True
    """
    require(updates >= 0, "updates", updates, "at least 0")
    require(block >= 1, "block", block, "at least 1")
    params = jax.eval_shape(family.init, state.key)
    _require_like("the parameters of state", state.params, params)
    _require_like("the optimiser's part of state", state.optimiser, jax.eval_shape(_guard(optimiser).init, params))
    value, memory = _value.eval_shape(family, loss, state.params, state.key, state.memory)
    require_scalar(value, "loss")
    _require_like("the memory that loss returns", memory, state.memory)

    state, before = jax.tree.map(jnp.copy, state), state.skipped
    history, done = [np.zeros(0, np.float32)], 0
    while done < updates:
        count = min(block, updates - done)
        try:
            state, losses = _run_block(family, loss, optimiser, block, state, count)
        except Exception:
            _require_gradient(family, loss, state)
            raise
        history.append(np.asarray(losses)[:count])
        done += count
        if callback is not None and callback(state, history[-1]):
            break
    if (lost := state.skipped - before) > done / 2:
        hint = "try a lower learning rate or a warm-up, and look at the density far out"
        warnings.warn(f"{lost} of {done} updates had no finite gradient and were skipped: {hint}", stacklevel=2)
    return Fit(state.params, np.concatenate(history), state)


def _require_like(argument: str, tree: Params, like: Params) -> None:
    came, expected = (
        {jax.tree_util.keystr(path): (jnp.shape(leaf), jnp.result_type(leaf).name) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (tree, like))
    )
    for name in sorted(came.keys() | expected.keys()):
        fits = came.get(name) == expected.get(name)
        require(fits, argument + name, came.get(name, "nothing"), f"{expected.get(name, 'absent')}")


def _require_gradient(family: Family, loss: Loss | LossWithMemory, state: TrainingState) -> None:
    """Says so where it is the gradient that fails, as of a density that is no program of JAX."""
    value_of = partial(_value, family, loss)
    try:
        jax.eval_shape(jax.grad(value_of, has_aux=True), state.params, state.key, state.memory)
    except Exception as error:
        hint = "if it is the density, use a loss that takes paths as constants, such as dds.losses.log_variance"
        raise ValueError(f"loss cannot be differentiated ({hint}): {type(error).__name__}: {error}") from error


@partial(jax.jit, static_argnums=(0, 1))
def _value(family: Family, loss: Callable[..., Any], params: Params, key: KeyArray, memory: Any) -> tuple[Scalar, Any]:
    """The loss, and what it remembers."""
    sampler = family.sampler(params)
    return loss(sampler, key, memory) if jax.tree.leaves(memory) else (loss(sampler, key), memory)


def _guard(optimiser: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.apply_if_finite(optimiser, max_consecutive_errors=np.iinfo(np.int32).max)


# The number of updates is an argument, not a shape: a last, shorter block runs the same program, so how training is
# cut into blocks leaves every bit as it is.
@partial(devices.program, static=4, donate_argnums=4)
def _run_block(
    family: Family,
    loss: Loss | LossWithMemory,
    optimiser: optax.GradientTransformation,
    block: int,
    state: TrainingState,
    count: int | Int[Array, ""],
):
    guarded = _guard(optimiser)
    value_of = partial(_value, family, loss)

    def update(i: Int[Array, ""], carry: tuple[TrainingState, Float[Array, " block"]]):
        (params, optimiser_state, key, updates, memory), losses = carry
        gradient_of = jax.value_and_grad(value_of, has_aux=True)
        (value, memory), gradient = gradient_of(params, jax.random.fold_in(key, updates), memory)
        change, optimiser_state = guarded.update(devices.mean(gradient), optimiser_state, params)
        state = TrainingState(optax.apply_updates(params, change), optimiser_state, key, updates + 1, memory)
        return state, losses.at[i].set(value)

    dtype = jax.eval_shape(value_of, state.params, state.key, state.memory)[0].dtype
    return jax.lax.fori_loop(0, count, update, (state, jnp.zeros(block, dtype)))
