"""What is saved comes back as it was, or is refused by name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dds import storage


@pytest.mark.parametrize(
    "tree",
    [
        {"x": jnp.arange(3.0), "n": jnp.array(2)},
        {"half": jnp.arange(3, dtype=jnp.bfloat16)},
        {"key": jax.random.key(3), "rbg": jax.random.key(4, impl="rbg"), "many": jax.random.split(jax.random.key(0))},
        {"file": jnp.ones(2), "dds": jnp.zeros(1)},
        {"a/b": jnp.ones(2), "a": {"b": jnp.zeros(2)}},
        jnp.ones((2, 0)),
        (),
    ],
)
def test_round_trip(tmp_path, tree):
    storage.save(tmp_path / "x", tree)
    like = jax.tree.map(lambda leaf: leaf, tree)
    again = storage.load(tmp_path / "x", like)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(again), strict=True):
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(np.asarray(one, np.float64), np.asarray(other, np.float64))


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    storage.save(path, {"x": jnp.zeros(2)})
    for like, message in [
        ({"y": jnp.zeros(2)}, r"the names in the file must be .*y.*, got .*x"),
        ({"x": jnp.zeros(3)}, r"the shape of \['x'\] in the file must be \(3,\), got \(2,\)"),
        ({"x": jnp.zeros(2, jnp.int32)}, r"the type of \['x'\] in the file must be int32, got float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            storage.load(path, like)


@pytest.mark.parametrize("content", [b"", b"some text", "half"])
def test_files_that_are_none(tmp_path, content):
    path = tmp_path / "a.npz"
    storage.save(path, {"x": jnp.zeros(2000)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(ValueError, match=r"must be a whole archive of this library, got .*a\.npz"):
        storage.load(path, {"x": jnp.zeros(2000)})


def test_another_version(tmp_path):
    text = json.dumps({"format": "dds", "version": 99, "kinds": {}, "header": None})
    np.savez(tmp_path / "a.npz", dds=np.frombuffer(text.encode(), np.uint8))
    with pytest.raises(ValueError, match=r"the version of .*a\.npz must be 1, got 99"):
        storage.load(tmp_path / "a.npz", {})


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        storage.write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
