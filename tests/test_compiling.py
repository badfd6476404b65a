import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dds import compiling


@pytest.mark.parametrize("count", [1, 3, 64, 65, 100, 128])
def test_in_batches_is_vmap_by_one_program(count):
    traced = []

    def one(x, key):
        traced.append(x)
        return jnp.sum(x) + jax.random.normal(key), x

    x, keys = jax.random.normal(jax.random.key(0), (count, 3)), jax.random.split(jax.random.key(1), count)
    found = jax.jit(compiling.in_batches(one, 64))(x, keys)
    assert len(traced) == 1
    for theirs, ours in zip(jax.vmap(one)(x, keys), found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
