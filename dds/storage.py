"""Saving and loading PyTrees of arrays in NumPy archives without pickle, each file whole or not at all."""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from dds.checks import require, typed

VERSION = 1
"""The version of the format."""

_HEADER = "dds"


@typed
def save(path: str | PathLike[str], tree: Any, *, header: dict[str, Any] | None = None) -> None:
    """Writes a PyTree of arrays to a file: a NumPy archive with one array for each leaf, named by its place in the tree.

    Args:
        path: The file.
        tree: The PyTree, for instance parameters or a `dds.training.TrainingState`.
        header: What JSON can hold, to be kept in the file too.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/params.npz", {"weight": jnp.ones(2)})
        ...     load(f"{folder}/params.npz", {"weight": jnp.zeros(2)})["weight"].tolist()
        [1.0, 1.0]
    """
    arrays, kinds = {}, {}
    for name, leaf in _named_leaves(tree):
        kinds[name], data = _kind(leaf), np.asarray(_data(leaf))
        # NumPy's format knows no bfloat16 and its like: their bits are kept.
        arrays[name] = data if data.dtype.isbuiltin == 1 else data.view(f"u{data.dtype.itemsize}")
    text = json.dumps({"format": "dds", "version": VERSION, "kinds": kinds, "header": header})
    arrays[_HEADER] = np.frombuffer(text.encode(), np.uint8)
    write_atomically(path, lambda file: np.savez(file, **arrays))


@typed
def load(path: str | PathLike[str], like: Any) -> Any:
    """Reads a PyTree that `save` wrote.

    Args:
        path: The file.
        like: A PyTree of the same structure, shapes and types, for instance freshly initialised parameters.

    Returns:
        The PyTree.

    Raises:
        ValueError: If the file is not a whole one of this version, or names, shapes or types in it are not those of
            `like`.
        OSError: If the file cannot be read.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/params.npz", {"weight": jnp.ones(2)})
        ...     load(f"{folder}/params.npz", {"bias": jnp.zeros(2)})
        Traceback (most recent call last):
        ValueError: the names in the file must be ["['bias']"], got ["['weight']"].
    """
    arrays, about = _read(path)
    named = _named_leaves(like)
    expected = sorted(name for name, _ in named)
    require(sorted(arrays) == expected, "the names in the file", sorted(arrays), f"{expected}")
    leaves = []
    for name, leaf in named:
        array, kind, shape = arrays[name], about["kinds"][name], jnp.shape(_data(leaf))
        require(array.shape == shape, f"the shape of {name} in the file", array.shape, f"{shape}")
        require(kind == _kind(leaf), f"the type of {name} in the file", kind, f"{_kind(leaf)}")
        if kind.startswith("key<"):
            leaves.append(jax.random.wrap_key_data(jnp.asarray(array), impl=kind[4:-1]))
        elif isinstance(leaf, np.ndarray):
            leaves.append(array.view(leaf.dtype))
        else:
            leaves.append(jnp.asarray(array.view(jnp.dtype(kind))))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


@typed
def read_header(path: str | PathLike[str]) -> dict[str, Any]:
    """Reads what `save` was given as header.

    Args:
        path: The file.

    Returns:
        The header; empty if there was none.

    Raises:
        ValueError: If the file is not a whole one of this version.
        OSError: If it cannot be read.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/params.npz", jnp.ones(2), header={"seed": 3})
        ...     read_header(f"{folder}/params.npz")
        {'seed': 3}
    """
    return _read(path)[1]["header"] or {}


@typed
def write_atomically(path: str | PathLike[str], write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file whole or not at all: to another one in the same folder, which then takes its name.

    Args:
        path: The file.
        write: What writes to the open file.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(f"{folder}/note.txt", lambda file: file.write(b"whole"))
        ...     Path(f"{folder}/note.txt").read_text()
        'whole'
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: str | PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file, and what is said of them."""
    content = Path(path).read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(arrays.pop(_HEADER).tobytes())
        known = about["format"] == "dds"
    except (ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        message = f"{path}, {len(content)} bytes: {type(error).__name__}"
        raise ValueError(f"the file must be a whole archive of this library, got {message}.") from error
    require(known, f"the format of {path}", about["format"], "dds")
    require(about["version"] == VERSION, f"the version of {path}", about["version"], f"{VERSION}")
    return arrays, about


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path) or "leaf", leaf) for path, leaf in leaves]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _kind(leaf: Any) -> str:
    return f"key<{jax.random.key_impl(leaf)}>" if _is_key(leaf) else jnp.asarray(leaf).dtype.name
