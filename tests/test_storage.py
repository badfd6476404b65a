"""What is saved comes back as it was, or is refused by name."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dds import storage


class Named(NamedTuple):
    file: jax.Array
    leaf: jax.Array


TREES = {
    "numbers": {"x": jnp.arange(3.0), "n": jnp.array(2), "flag": jnp.array(True), "z": jnp.array([1j, 2])},
    "narrow": {name: jnp.arange(3).astype(name) for name in ("bfloat16", "float16", "float8_e4m3fn", "int4")},
    "keys": {
        "one": jax.random.key(3),
        "many": jax.random.split(jax.random.key(0), 3),
        "rbg": jax.random.key(4, impl="rbg"),
        "unsafe": jax.random.split(jax.random.key(4, impl="unsafe_rbg"), (2, 1)),
    },
    "names of NumPy's": {"file": jnp.ones(2), "dds": jnp.zeros(1), "leaf": jnp.zeros(3), "allow_pickle": jnp.ones(1)},
    "names of attributes": Named(jnp.ones(2), jnp.zeros(1)),
    "slashes": {"a/b": jnp.ones(2), "a": {"b": jnp.zeros(2)}, "../c\\d\0": jnp.zeros(1)},
    "numbers and their names": {0: jnp.ones(1), 1: [jnp.zeros(1), (jnp.ones(2),)]},
    "NumPy": {"x": np.ones(2), "swapped": np.arange(3, dtype=">f4"), "columns": np.asfortranarray(np.eye(3)[:2])},
    "a leaf": jnp.ones((2, 0)),
    "nothing": (),
    "scalars": {"n": 3, "x": 2.5, "flag": True},
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
@pytest.mark.parametrize("name", ["x", "x.npz", "with space.state"])
def test_round_trip(tmp_path, tree, name):
    path = tmp_path / name
    storage.save(str(path), tree)
    assert list(tmp_path.iterdir()) == [path]
    again = storage.load(path, jax.tree.map(blank, tree))
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(again), strict=True):
        assert isinstance(other, np.ndarray) == isinstance(one, np.ndarray)
        one = one if hasattr(one, "dtype") else jnp.asarray(one)
        assert one.dtype.name == other.dtype.name
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(one) == jax.random.key_impl(other)
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(np.asarray(one, np.complex128), np.asarray(other, np.complex128), strict=True)


def blank(leaf):
    """A leaf of the same kind with other values."""
    if isinstance(leaf, np.ndarray):
        return np.zeros_like(leaf)
    if not isinstance(leaf, jax.Array):
        return type(leaf)(0)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(9, impl=jax.random.key_impl(leaf)), leaf.shape)
    return jnp.zeros_like(leaf)


def test_header(tmp_path):
    path, header = tmp_path / "a.npz", {"plan": {"steps": [1, 2, None]}, "name": "ü"}
    storage.save(path, {"x": jnp.zeros(2)}, header=header)
    assert storage.read_header(path) == header
    storage.save(path, {"x": jnp.zeros(2)})
    assert storage.read_header(path) == {}


def test_files_are_plain_archives(tmp_path):
    """Another program reads them without this library, and without pickle."""
    storage.save(tmp_path / "a.npz", {"x": [jnp.zeros(2), jnp.ones(3)]})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive["['x'][1]"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"y": jnp.zeros(2)}, r"the names in the file must be .*y.*, got .*x"),
        ({"x": jnp.zeros(2), "y": jnp.zeros(2)}, r"the names in the file must be .*y.*, got .*x"),
        ({}, r"the names in the file must be \[\], got .*x"),
        ([jnp.zeros(2)], r"the names in the file must be .*0.*, got .*x"),
        ({"x": jnp.zeros(3)}, r"the shape of \['x'\] in the file must be \(3,\), got \(2,\)"),
        ({"x": jnp.zeros(2, jnp.int32)}, r"the type of \['x'\] in the file must be int32, got float32"),
        ({"x": jnp.zeros(2, jnp.bfloat16)}, r"the type of \['x'\] in the file must be bfloat16, got float32"),
        ({"x": np.zeros(2)}, r"the type of \['x'\] in the file must be float64, got float32"),
        ({"x": jax.random.key(0)}, r"the type of \['x'\] in the file must be key<.*>, got float32"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, like, message):
    storage.save(tmp_path / "a.npz", {"x": jnp.zeros(2)})
    with pytest.raises(ValueError, match=message):
        storage.load(tmp_path / "a.npz", like)


def test_keys_of_another_implementation_are_refused(tmp_path):
    storage.save(tmp_path / "a.npz", {"key": jax.random.key(0, impl="rbg")})
    with pytest.raises(ValueError, match=r"the type of \['key'\] in the file must be key<threefry2x32>, got key<rbg>"):
        storage.load(tmp_path / "a.npz", {"key": jax.random.key(0)})


@pytest.mark.parametrize("leaf", ["text", np.array([None]), np.zeros(1, "M8[s]"), np.zeros(1, [("a", "f4")]), print])
def test_what_is_no_array_is_not_saved(tmp_path, leaf):
    with pytest.raises(ValueError, match=r"the leaf \['x'\] must be an array of numbers or keys, got a"):
        storage.save(tmp_path / "a.npz", {"x": leaf})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", [storage.read_header, lambda path: storage.load(path, {"x": jnp.zeros(2000)})])
@pytest.mark.parametrize("content", [b"", b"PK", b"some text", b"\x93NUMPY", "half", "all but one", "no header"])
def test_files_that_are_none(tmp_path, content, read):
    path = tmp_path / "a.npz"
    storage.save(path, {"x": jnp.zeros(2000)})
    whole = path.read_bytes()
    if content == "no header":
        np.savez(path, x=np.zeros(2000))
    else:
        path.write_bytes({"half": whole[: len(whole) // 2], "all but one": whole[:-1]}.get(content, content))
    with pytest.raises(ValueError, match=r"the file must be a whole archive of this library, got .*a\.npz"):
        read(path)


def test_a_flipped_bit_is_seen(tmp_path):
    path = tmp_path / "a.npz"
    storage.save(path, {"x": jnp.zeros(2000)})
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"the file must be a whole archive of this library, got .*a\.npz"):
        storage.load(path, {"x": jnp.zeros(2000)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, r"the version of .*a\.npz must be 1, got 99"),
        ({"format": "other"}, r"the format of .*a\.npz must be dds, got other"),
        ({"header": 3}, r"the file must be a whole archive of this library, got .*a\.npz, whose header lacks a part"),
    ],
)
def test_another_format(tmp_path, change, message):
    text = json.dumps({"format": "dds", "version": 1, "kinds": {}, "header": None} | change)
    np.savez(tmp_path / "a.npz", dds=np.frombuffer(text.encode(), np.uint8))
    for read in (storage.read_header, lambda path: storage.load(path, {})):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "a.npz")


def test_arrays_that_the_header_does_not_know(tmp_path):
    text = json.dumps({"format": "dds", "version": 1, "kinds": {}, "header": None})
    np.savez(tmp_path / "a.npz", dds=np.frombuffer(text.encode(), np.uint8), x=np.zeros(2))
    with pytest.raises(ValueError, match=r"a\.npz, whose header lacks a part"):
        storage.load(tmp_path / "a.npz", {"x": jnp.zeros(2)})


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.npz"):
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


def test_a_header_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npz"
    storage.save(path, jnp.ones(1))
    with pytest.raises(TypeError, match="not JSON serializable"):
        storage.save(path, jnp.zeros(1), header={"x": object()})
    assert storage.load(path, jnp.zeros(1)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_modes_are_those_of_new_files(tmp_path):
    (tmp_path / "folder").mkdir()
    path, link, plain = tmp_path / "folder" / "a.txt", tmp_path / "link", tmp_path / "plain"
    path.write_text("old")
    link.symlink_to(path)
    storage.write_atomically(link, lambda file: file.write(b"new"))
    assert link.is_symlink()
    assert path.read_text() == "new"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode
