"""Training: an optax loop, compiled in blocks of many updates, that can be stopped and resumed at any of their ends."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from beartype import beartype
from jaxtyping import Array, Float, Int, jaxtyped

from dds.checks import require, require_scalar
from dds.types import KeyArray, Params, Scalar

Loss = Callable[[Params, KeyArray], Scalar]
"""A loss of the parameters and a key."""


class State(NamedTuple):
    """All that training depends on.

    Attributes:
        params: The parameters.
        optimiser: The state of the optimiser, including what was skipped.
        key: The key of the whole training: update `i` uses it folded with `i`.
        updates: The number of updates done, skipped ones included.
    """

    params: Params
    optimiser: Any
    key: KeyArray
    updates: Int[Array, ""]

    @property
    def skipped(self) -> int:
        """The number of updates that were skipped because their gradient was not finite."""
        return int(self.optimiser.total_notfinite)


class Fit(NamedTuple):
    """What training returns.

    Attributes:
        params: The trained parameters.
        losses: The loss at each update of this run.
        state: Where training stands: give it to `resume` to go on.
    """

    params: Params
    losses: Float[np.ndarray, " updates"]
    state: State


Callback = Callable[[State, Float[np.ndarray, " block"]], bool | None]
"""What is called between blocks of updates, with the state and the losses of the block; `True` stops the training."""


@jaxtyped(typechecker=beartype)
def fit(
    key: KeyArray,
    params: Params,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    updates: int,
    *,
    block: int = 100,
    callback: Callback | None = None,
) -> Fit:
    """Minimises a loss.

    Args:
        key: The random key of the whole training.
        params: The initial parameters; they are copied, and stay yours.
        loss: The loss of parameters and a key, to be compiled and differentiated.
        optimiser: Any optax optimiser.
        updates: The number of updates, at least 1.
        block: The number of updates in a row in compiled code, at least 1. It does not change the result.
        callback: Called between blocks with the state and the losses of the block; training stops if it returns
            `True`. The state is valid until it returns, for its memory is then used again: copy what you keep.

    Returns:
        The parameters, the losses and the state to resume from. Updates whose gradient is not finite leave parameters
        and optimiser as they are, and are counted in `state.skipped`.

    Raises:
        ValueError: If `updates` or `block` is below 1, or `loss` does not return a floating-point scalar.

    Example:
        >>> def loss(params, key):
        ...     return jnp.sum((params - jax.random.normal(key, (2,))) ** 2)
        >>> run = fit(jax.random.key(0), jnp.ones(2), loss, optax.sgd(0.01), 500)
        >>> run.losses.shape, bool(jnp.all(jnp.abs(run.params) < 0.5))
        ((500,), True)
    """
    state = State(params, _guard(optimiser).init(params), key, jnp.zeros((), int))
    return resume(state, loss, optimiser, updates, block=block, callback=callback)


@jaxtyped(typechecker=beartype)
def resume(
    state: State,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    updates: int,
    *,
    block: int = 100,
    callback: Callback | None = None,
) -> Fit:
    """Goes on from a state: two runs of `n` updates give, bit for bit, what one run of `2 n` gives.

    Args:
        state: Where training stands; it is copied, and stays yours.
        loss: As in `fit`.
        optimiser: The same optimiser as before.
        updates: The number of updates to add, at least 1.
        block: As in `fit`.
        callback: As in `fit`.

    Returns:
        As `fit`; the losses are those of the added updates.

    Raises:
        ValueError: As `fit`.

    Example:
        >>> def loss(params, key):
        ...     return jnp.sum((params - jax.random.normal(key, (2,))) ** 2)
        >>> first = fit(jax.random.key(0), jnp.ones(2), loss, optax.adam(0.1), 10)
        >>> second = resume(first.state, loss, optax.adam(0.1), 10)
        >>> whole = fit(jax.random.key(0), jnp.ones(2), loss, optax.adam(0.1), 20)
        >>> bool(jnp.all(second.params == whole.params))
        True
    """
    require(updates >= 1, "updates", updates, "at least 1")
    require(block >= 1, "block", block, "at least 1")
    require_scalar(jax.eval_shape(loss, state.params, state.key), "loss")

    state = jax.tree.map(jnp.copy, state)
    history: list[np.ndarray] = []
    done = 0
    while done < updates:
        count = min(block, updates - done)
        state, losses = _run_block(loss, optimiser, block, state, count)
        history.append(np.asarray(losses)[:count])
        done += count
        if callback is not None and callback(state, history[-1]):
            break
    return Fit(state.params, np.concatenate(history), state)


def _guard(optimiser: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.apply_if_finite(optimiser, max_consecutive_errors=np.iinfo(np.int32).max)


# The number of updates is an argument, not a shape: a last, shorter block runs the same program, so how training is
# cut into blocks leaves every bit as it is.
@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _run_block(
    loss: Loss, optimiser: optax.GradientTransformation, block: int, state: State, count: int | Int[Array, ""]
):
    guarded = _guard(optimiser)

    def update(i: Int[Array, ""], carry: tuple[State, Float[Array, " block"]]):
        (params, optimiser_state, key, updates), losses = carry
        value, gradient = jax.value_and_grad(loss)(params, jax.random.fold_in(key, updates))
        change, optimiser_state = guarded.update(gradient, optimiser_state, params)
        state = State(optax.apply_updates(params, change), optimiser_state, key, updates + 1)
        return state, losses.at[i].set(value)

    dtype = jax.eval_shape(loss, state.params, state.key).dtype
    return jax.lax.fori_loop(0, count, update, (state, jnp.zeros(block, dtype)))
