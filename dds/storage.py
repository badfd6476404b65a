"""Saving and loading PyTrees of arrays in NumPy archives without pickle, each file whole or not at all."""

import io
import json
import os
import secrets
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
    """Writes a PyTree of arrays to a file: a NumPy archive with an array for each leaf, named by its place in the tree.

    Args:
        path: The file.
        tree: The PyTree, for instance parameters or a `dds.training.TrainingState`.
        header: What JSON can hold, to be kept in the file too.

    Raises:
        ValueError: If a leaf is no array of numbers, or two leaves have the same name.
        TypeError: If JSON cannot hold the header.
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/params.npz", {"weight": jnp.ones(2)})
        ...     load(f"{folder}/params.npz", {"weight": jnp.zeros(2)})[
        ...         "weight"
        ...     ].tolist()
        [1.0, 1.0]
    """
    arrays, kinds = {}, {}
    for name, leaf in _named_leaves(tree):
        kinds[name], data = _kind(name, leaf), np.asarray(_data(leaf))
        data = data.astype(data.dtype.newbyteorder("="), copy=False)
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
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/params.npz", {"weight": jnp.ones(2)})
        ...     load(f"{folder}/params.npz", {"bias": jnp.zeros(2)})
        Traceback (most recent call last):
        ValueError: the names in the file must be ["['bias']"], got ["['weight']"].
    """
    about, arrays = _read(path)
    named = _named_leaves(like)
    expected = sorted(name for name, _ in named)
    require(sorted(arrays) == expected, "the names in the file", sorted(arrays), f"{expected}")
    leaves = []
    for name, leaf in named:
        array, kind, expected_kind = arrays[name], about["kinds"][name], _kind(name, leaf)
        data = np.asarray(_data(leaf))
        require(kind == expected_kind, f"the type of {name} in the file", kind, expected_kind)
        require(array.shape == data.shape, f"the shape of {name} in the file", array.shape, f"{data.shape}")
        array = array.view(data.dtype.newbyteorder("="))
        if _is_key(leaf):
            leaves.append(jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf)))
        else:
            leaves.append(array if isinstance(leaf, np.ndarray | np.generic) else jnp.asarray(array))
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
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/params.npz", jnp.ones(2), header={"seed": 3})
        ...     read_header(f"{folder}/params.npz")
        {'seed': 3}
    """
    return _read(path, arrays_too=False)[0]["header"] or {}


@typed
def write_atomically(path: str | PathLike[str], write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file whole or not at all: to another one in the same folder, which then takes its name.

    Args:
        path: The file.
        write: What writes to the open file.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(
        ...         f"{folder}/note.txt", lambda file: file.write(b"whole")
        ...     )
        ...     Path(f"{folder}/note.txt").read_text()
        'whole'
    """
    path = Path(os.path.realpath(path))  # a link stays one
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(path: str | PathLike[str], arrays_too: bool = True) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is said of the arrays of a file, and the arrays."""
    content = Path(path).read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            about = json.loads(archive[_HEADER].tobytes())
            file_format, version = about["format"], about["version"]
            mine = file_format == "dds" and version == VERSION
            names = set(archive.files) - {_HEADER} if mine and arrays_too else ()
            arrays = {name: archive[name] for name in names}
            whole = not mine or (isinstance(about["header"], dict | None) and about["kinds"].keys() >= arrays.keys())
    except Exception as error:  # whatever NumPy, its zip files and JSON make of a broken file
        message = f"{path}, {len(content)} bytes: {type(error).__name__}"
        raise ValueError(f"the file must be a whole archive of this library, got {message}.") from error
    require(file_format == "dds", f"the format of {path}", file_format, "dds")
    require(version == VERSION, f"the version of {path}", version, f"{VERSION}")
    require(whole, "the file", f"{path}, whose header lacks a part", "a whole archive of this library")
    return about, arrays


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = [(jax.tree_util.keystr(path) or "leaf", leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    names = [name for name, _ in leaves]
    different = len({*names, _HEADER}) == len(names) + 1
    require(different, "the names of the leaves", names, f"different, none of them {_HEADER}")
    return leaves


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, np.ndarray | np.generic) else jnp.asarray(leaf)


def _kind(name: str, leaf: Any) -> str:
    """The type of a leaf, by name: of an array's entries, or of a key."""
    if _is_key(leaf):
        return f"key<{jax.random.key_impl(leaf)}>"
    is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex)
    known = is_array and any(jnp.issubdtype(_data(leaf).dtype, kind) for kind in (np.number, np.bool_))
    require(known, f"the leaf {name}", f"a {type(leaf).__name__}", "an array of numbers or keys")
    return _data(leaf).dtype.name
