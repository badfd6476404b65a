"""How functions are compiled that run once or a few times, and by which compiler not."""

import hashlib
import os
import platform
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
import numpy as np
from jaxtyping import Array

from dds.checks import typed
from dds.types import KeyArray

BROKEN = ("0.10.2",)
"""Releases of jaxlib whose XLA is wrong on a CPU, and says nothing.

Sums over products of a matrix with each vector of a batch come from the wrong vectors once there are more than 32,768
terms, as in the likelihood of 40 observations at 1,000 points (https://github.com/jax-ml/jax/issues/39103).
"""

STARVING = jaxlib.version.__version_info__ < (0, 11)
"""Whether the cores of a CPU can wait for each other for ever.

In jaxlib 0.10 a batched solve of LAPACK is cut in parts for the threads of a pool, and waits for them in one of these
threads. There are as many as cores, or as the environment variable NPROC says before JAX starts. If each of them waits
for one that is free, nothing goes on: so it was with several devices of a CPU, each in a solve, and on two cores with
the density of a Gaussian process, whose gradients solve side by side. One thread alone waits for nobody, so with such a
jaxlib NPROC is set to 1 when this module is imported, unless it is set already.
"""

if STARVING:
    os.environ.setdefault("NPROC", "1")

if jaxlib.version.__version__ in BROKEN:
    warnings.warn(
        f"jaxlib {jaxlib.version.__version__} computes some sums wrongly on a CPU, so results can look right and be "
        "wrong: install another release",
        stacklevel=2,
    )

QUICK: dict[str, Any] = {"xla_backend_optimization_level": 1, "xla_cpu_parallel_codegen_split_count": 1}
"""Compiler options with which XLA compiles twice as fast for a CPU, and the program is a little slower."""

if jaxlib.version.__version_info__ < (0, 11):  # later ones refuse a program with an option that is gone
    QUICK["xla_cpu_use_fusion_emitters"] = False

once: Callable[..., Any] = partial(jax.jit, compiler_options=QUICK)
"""`jax.jit` for what runs so seldom that compiling takes longer than running."""


@typed
def keep(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keeps compiled programs in a folder, so that the next process with the same target need not compile them.

    The command does so by itself. Call it before anything is compiled. Before JAX takes a program it asks for its own
    release, the options of the compiler and the kind of accelerator, but not for the CPU, and on another one a program
    can end with an illegal instruction. So below the folder each kind of CPU has one of its own. A folder that is set
    by the environment variable JAX_COMPILATION_CACHE_DIR or in `jax.config` stays as it is.

    What XLA logs below fatal errors is turned off, for on some CPUs it says of each program that it takes that a
    preference of its own compiler is no feature of the CPU (https://github.com/openxla/xla/issues/44565).

    Args:
        folder: Where; by default `dds-jax` in the folder of the user's caches, `XDG_CACHE_HOME` or `~/.cache`.

    Returns:
        The folder in use, which may be removed at any time, or None if it cannot be written.

    Example:
        >>> before = jax.config.jax_compilation_cache_dir
        >>> jax.config.update("jax_compilation_cache_dir", "programs")
        >>> print(keep())  # what is set stays
        programs
        >>> jax.config.update("jax_compilation_cache_dir", before)
    """
    settings: Any = jax.config  # whose type does not name them
    if settings.jax_compilation_cache_dir:
        return Path(settings.jax_compilation_cache_dir)
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        kept = Path(folder or caches / "dds-jax") / processor()
        kept.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or one that cannot be written: a cache is not worth an error
        return None
    if not os.access(kept, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(kept))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)
    level = settings.jax_logging_level
    jax.config.update("jax_logging_level", "CRITICAL")  # also of XLA, which keeps it
    jax.config.update("jax_logging_level", level)
    return kept


@typed
def processor() -> str:
    """A name of the kind of CPU, the same for those that have the same instructions.

    By the model and the flags where Linux tells them; elsewhere each machine has a name of its own.

    Returns:
        Twelve hexadecimal digits.

    Example:
        >>> len(processor())
        12
    """
    told = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
        kind = "\n".join(line for line in first.splitlines() if line.startswith(told))
    except OSError:
        kind = ""
    return hashlib.sha256((kind or repr(platform.uname())).encode()).hexdigest()[:12]


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


def in_batches(function: Callable[..., Any], batch_size: int) -> Callable[..., Any]:
    """`jax.lax.map` in batches of one size, the last of them filled up.

    `jax.lax.map` compiles a second program for what is left over, and runs it beside the first: in jaxlib 0.10 the
    solves of LAPACK in both can wait for each other for ever (`STARVING`).

    Args:
        function: A function of one of the batch.
        batch_size: How many are worked on at a time, at least 1.

    Returns:
        The function of arrays that have the batch along their first axes.

    Example:
        >>> import jax.numpy as jnp
        >>> in_batches(lambda x: 2 * x, 2)(jnp.arange(3)).tolist()
        [0, 2, 4]
    """

    def run(*arguments: Any) -> Any:
        count = jax.tree.leaves(arguments)[0].shape[0]
        parts = -(-count // batch_size)
        if parts <= 1:
            return jax.vmap(function)(*arguments)
        if count % batch_size:
            filled = np.minimum(np.arange(parts * batch_size), count - 1)
            arguments = jax.tree.map(lambda leaf: leaf[filled], arguments)
        cut = jax.tree.map(lambda leaf: leaf.reshape(parts, batch_size, *leaf.shape[1:]), arguments)
        mapped = jax.lax.map(lambda batch: jax.vmap(function)(*batch), cut)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], mapped)

    return run


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
