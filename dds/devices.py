"""Paths spread over devices, which need nothing of one another until their weights are put together.

A `program` runs on all devices that `using` names: each does the same with the same numbers, but for the batches of
`share`, of which it does a part; then all have the whole. So the result is that of one device, to rounding, and
whatever is not a batch of paths runs as it is, be it a density with loops of its own. Where no devices are named,
`share` is `jax.vmap`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dds.checks import require, typed
from dds.compiling import STARVING, in_batches

AXIS = "paths"
"""The name of the axis along which paths are spread."""

Devices = int | Sequence[Any]
"""Devices of JAX, or how many of those of this process."""

_mesh = jax.make_user_context(None)


@contextmanager
def using(devices: Devices | None = None) -> Iterator[None]:
    """Names the devices for all that runs inside of `with`.

    Args:
        devices: The devices. By default those that were named already, or `jax.default_device`, or else all that there
            are, of all processes; where they are `dds.compiling.STARVING`, the first.

    Raises:
        ValueError: If there are none, not so many, or they could wait for each other for ever: more than one core of a
            CPU, with such a jaxlib, without an NPROC of at least twice their number.

    Example:
        >>> with using(1):
        ...     float(jnp.ones(()))
        1.0
    """
    if devices is None and (_mesh.value is not None or jax.default_device.value is not None):
        yield
        return
    if devices is None:
        devices = jax.devices()
        devices = jax.local_devices()[:1] if _threads_needed(devices) else devices
    if isinstance(devices, int):
        local = jax.local_devices()
        kind = f"the number of {local[0].platform} devices"
        require(1 <= devices <= len(local), "devices", devices, f"from 1 to {len(local)}, {kind}")
        devices = local[:devices]
    require(len(devices) >= 1, "devices", "none", "one or more")
    needed = _threads_needed(devices)
    why = f"or the environment variable NPROC at least {needed} when JAX starts (dds.compiling.STARVING)"
    require(not needed, "devices", f"{len(devices)} of a CPU", f"one, with jaxlib 0.10, {why}")
    if len(devices) == 1:
        with _mesh(None), jax.default_device(devices[0]):
            yield
    else:
        with _mesh(jax.make_mesh((len(devices),), (AXIS,), (AxisType.Auto,), devices=devices)):
            yield


@typed
def program(function: Callable[..., Any], *, static: int = 0, **options: Any) -> Callable[..., Any]:
    """`jax.jit` of a function that makes its batches by `share`, so that it can be spread over devices.

    Args:
        function: A function of arrays, as for `jax.jit`. Its result must be the same on all devices.
        static: How many of the first arguments are no arrays.
        **options: Options of `jax.jit`.

    Returns:
        The function, compiled at its first call.

    Example:
        >>> twice = program(share(lambda x: 2 * x))
        >>> with using():
        ...     twice(jnp.arange(3)).tolist()
        [0, 2, 4]
    """

    @wraps(function)
    def everywhere(*arguments: Any) -> Any:
        if _mesh.value is None or _is_spread():
            return function(*arguments)
        every = PartitionSpec()

        def local(*arrays: Any) -> Any:
            return function(*arguments[:static], *arrays)

        # How types vary over devices is not checked: a user's loop that starts from a constant would not pass.
        spread = jax.shard_map(local, mesh=_mesh.value, in_specs=every, out_specs=every, check_vma=False)
        return spread(*arguments[static:])

    compiled = jax.jit(everywhere, static_argnums=tuple(range(static)), **options)

    @wraps(function)
    def run(*arguments: Any) -> Any:
        if _mesh.value is None or _is_spread():
            return compiled(*arguments)
        arrays = jax.tree.map(_on_all, arguments[static:])
        # All have the result; one is enough, and whatever is not a program goes on there.
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), compiled(*arguments[:static], *arrays))

    return run


@typed
def share(function: Callable[..., Any], *, batch_size: int | None = None) -> Callable[..., Any]:
    """`jax.vmap` of a function, or `dds.compiling.in_batches`, each device with its part inside of a `program`.

    Args:
        function: A function of one path, of one key for instance.
        batch_size: How many a device takes at a time; by default all it has.

    Returns:
        The function of a batch: each argument has the batch along its first axis, and so have the results.

    Example:
        >>> share(lambda x: x + 1)(jnp.arange(3)).tolist()
        [1, 2, 3]
    """
    batch = jax.vmap(function) if batch_size is None else in_batches(function, batch_size)

    def run(*arguments: Any) -> Any:
        if not _is_spread():
            return batch(*arguments)
        count = jax.tree.leaves(arguments)[0].shape[0]
        each = -(-count // jax.lax.axis_size(AXIS))
        mine = jnp.minimum(jax.lax.axis_index(AXIS) * each + jnp.arange(each), count - 1)  # what is over is done twice
        parts = batch(*jax.tree.map(lambda leaf: leaf[mine], arguments))
        return jax.tree.map(lambda leaf: leaf[:count], jax.lax.all_gather(parts, AXIS, tiled=True))

    return run


@typed
def mean(gradient: Any) -> Any:
    r"""The gradient of a loss over the paths of all devices.

    The derivative of what `share` puts together is, on each of $n$ devices, $n$ times the part of its own paths; what
    does not come of paths is the same on all. So the mean is the gradient in both cases.

    Args:
        gradient: The gradient as a device has it.

    Returns:
        The mean over devices; outside of a `program` the gradient itself.

    Example:
        >>> float(mean(jnp.ones(())))
        1.0
    """
    return jax.lax.pmean(gradient, AXIS) if _is_spread() else gradient


@typed
def agreed(answer: bool) -> bool:
    """What the first process says, where several run a program together: their clocks differ, their steps must not.

    Args:
        answer: What this process says.

    Returns:
        What all go by.

    Example:
        >>> agreed(True)
        True
    """
    if _mesh.value is None or len({device.process_index for device in _mesh.value.devices.flat}) == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(answer)))


def _threads_needed(devices: Sequence[Any]) -> int:
    """The threads that devices need, if there are fewer, and they can wait for each other for ever."""
    own = [device for device in devices if device.process_index == jax.process_index()]
    threads = int(os.environ.get("NPROC") or os.cpu_count() or 1)
    few = STARVING and len(own) > 1 and own[0].platform == "cpu" and threads < 2 * len(own)
    return 2 * len(own) if few else 0


def _on_all(leaf: Any) -> jax.Array:
    """The same numbers on all devices; of those of other processes these see to it."""
    leaf, everywhere = jnp.asarray(leaf), NamedSharding(_mesh.value, PartitionSpec())
    own = [device for device in _mesh.value.devices.flat if device.process_index == jax.process_index()]
    copies = [jax.device_put(leaf, device) for device in own]
    return jax.make_array_from_single_device_arrays(leaf.shape, everywhere, copies)


def _is_spread() -> bool:
    """Whether this is inside of a program that runs on several devices."""
    return AXIS in jax.sharding.get_abstract_mesh().manual_axes
