"""How functions are compiled that run once or a few times."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jaxtyping import Array

from dds.types import KeyArray

QUICK: dict[str, Any] = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
"""Compiler options with which XLA compiles twice as fast for a CPU, and the program is a little slower."""

once: Callable[..., Any] = partial(jax.jit, compiler_options=QUICK)
"""`jax.jit` for what runs so seldom that compiling takes longer than running."""


def split(key: KeyArray, count: int = 2) -> list[KeyArray]:
    """Independent keys, as `jax.random.split`, which compiles a program for each count when it is called by itself.

    Args:
        key: The random key.
        count: How many.

    Returns:
        The keys.

    Example:
        >>> len(split(jax.random.key(0), 3))
        3
    """
    return [jax.random.fold_in(key, i) for i in range(count)]


@partial(once, static_argnums=(1, 2))
def noise(key: KeyArray, shape: tuple[int, ...], dtype: Any) -> Array:
    """Standard normal noise, outside of compiled code.

    Args:
        key: The random key.
        shape: The shape.
        dtype: The type of its numbers.

    Returns:
        The noise.

    Example:
        >>> import jax.numpy as jnp
        >>> noise(jax.random.key(0), (2, 3), jnp.dtype("float32")).shape
        (2, 3)
    """
    return jax.random.normal(key, shape, dtype)
