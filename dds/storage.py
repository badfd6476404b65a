"""Saving and loading PyTrees of arrays, as parameters or the state of a training, in NumPy archives without pickle."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jaxtyping import jaxtyped

from dds.checks import require


@jaxtyped(typechecker=beartype)
def save(path: str | Path, tree: Any) -> None:
    """Writes a PyTree of arrays to a `.npz` file, one array a leaf, named by its place in the tree.

    Args:
        path: The file; its name should end in `.npz`.
        tree: The PyTree, for instance parameters or a `dds.training.State`.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/params.npz", {"weight": jnp.ones(2)})
        ...     load(f"{folder}/params.npz", {"weight": jnp.zeros(2)})["weight"].tolist()
        [1.0, 1.0]
    """
    arrays: dict[str, Any] = {name: np.asarray(_data(leaf)) for name, leaf in _named_leaves(tree)}
    np.savez(path, **arrays)


@jaxtyped(typechecker=beartype)
def load(path: str | Path, like: Any) -> Any:
    """Reads a PyTree that `save` wrote.

    Args:
        path: The file.
        like: A PyTree of the same structure and shapes, for instance freshly initialised parameters.

    Returns:
        The PyTree.

    Raises:
        ValueError: If names or shapes in the file are not those of `like`.
        OSError: If the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/params.npz", {"weight": jnp.ones(2)})
        ...     load(f"{folder}/params.npz", {"bias": jnp.zeros(2)})
        Traceback (most recent call last):
        ValueError: the names in the file must be ['bias'], got ['weight'].
    """
    named = _named_leaves(like)
    with np.load(path, allow_pickle=False) as archive:
        expected = sorted(name for name, _ in named)
        require(sorted(archive.files) == expected, "the names in the file", sorted(archive.files), f"{expected}")
        leaves = []
        for name, leaf in named:
            array, shape = archive[name], jnp.shape(_data(leaf))
            require(array.shape == shape, f"the shape of {name}", array.shape, f"{shape}")
            is_key = jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key)
            leaves.append(jax.random.wrap_key_data(array) if is_key else jnp.asarray(array))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/") or "leaf", leaf) for path, leaf in leaves]


def _data(leaf: Any) -> Any:
    is_key = jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf
