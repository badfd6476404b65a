"""Checks of arguments: types and shapes by `typed`, values by a plain `ValueError` before anything is compiled."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import jaxtyped

Function = TypeVar("Function", bound=Callable[..., Any])


def typed(function: Function) -> Function:
    """Checks types and shapes of arguments and of what is returned, on every call.

    Args:
        function: The function, annotated.

    Returns:
        The function, which raises `jaxtyping.TypeCheckError` where an annotation does not hold.

    Example:
        >>> from jaxtyping import Array, Float
        >>> @typed
        ... def total(x: Float[Array, " dim"], factor: float) -> Float[Array, ""]:
        ...     return factor * jnp.sum(x)
        >>> float(total(jnp.ones(3), 2))
        6.0
    """

    # The check is made at the first call: made here, those of all functions would double the time of the import.
    @functools.cache
    def check() -> Any:
        from beartype import BeartypeConf, beartype

        return jaxtyped(function, typechecker=beartype(conf=BeartypeConf(is_pep484_tower=True)))  # ints pass for floats

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        return check()(*args, **kwargs)

    return cast(Function, checked)


def require(ok: bool, argument: str, value: Any, expected: str) -> None:
    """Raises a `ValueError` that names the argument, what came and what was expected, unless `ok`.

    Args:
        ok: Whether the argument is good.
        argument: Its name.
        value: What came.
        expected: What was expected, in words.

    Raises:
        ValueError: If not `ok`.

    Example:
        >>> require(0 < 3, "steps", 3, "at least 1")
        >>> require(0 < -1, "steps", -1, "at least 1")
        Traceback (most recent call last):
        ValueError: steps must be at least 1, got -1.
    """
    if not ok:
        raise ValueError(f"{argument} must be {expected}, got {value}.")


def require_values(good: Callable[[np.ndarray], Any], argument: str, values: Any, expected: str) -> None:
    """Like `require` for the entries of an array; a traced array has no values yet and passes.

    Args:
        good: A predicate of the array as NumPy sees it, entry by entry.
        argument: Its name.
        values: The array.
        expected: What was expected of each entry, in words.

    Raises:
        ValueError: If any entry is not good.

    Example:
        >>> require_values(lambda b: b > 0, "b", np.array([0.5, -0.5]), "positive")
        Traceback (most recent call last):
        ValueError: b must be positive, got [-0.5].
    """
    if isinstance(values, Tracer):
        return
    array = np.asarray(values)
    bad = array[~np.asarray(good(array))] if array.ndim else array
    require(bool(np.all(good(array))), argument, bad, expected)


def require_shape(x: Any, dim: int) -> None:
    """Raises a `ValueError` unless a point has the dimension of the target.

    Args:
        x: The point.
        dim: The dimension.

    Raises:
        ValueError: If the shape of `x` is not `(dim,)`.

    Example:
        >>> require_shape(np.zeros(3), 2)
        Traceback (most recent call last):
        ValueError: the shape of x must be (2,), the dimension of the target, got (3,).
    """
    require(np.shape(x) == (dim,), "the shape of x", np.shape(x), f"({dim},), the dimension of the target")


def require_scalar(value: Any, argument: str) -> None:
    """Raises a `ValueError` unless a function returns a floating-point scalar.

    Args:
        value: What `jax.eval_shape` says of the value.
        argument: The name of the function.

    Raises:
        ValueError: If it is not one array of no axes and a floating-point type.

    Example:
        >>> require_scalar(jax.ShapeDtypeStruct((3,), jnp.float32), "loss")
        Traceback (most recent call last):
        ValueError: the value of loss must be a floating-point scalar, got float32[3].
    """
    is_array = isinstance(value, jax.ShapeDtypeStruct)
    came = f"{value.dtype}{list(value.shape)}" if is_array else f"a {type(value).__name__}"
    is_scalar = is_array and value.shape == () and jnp.issubdtype(value.dtype, jnp.floating)
    require(is_scalar, f"the value of {argument}", came, "a floating-point scalar")
