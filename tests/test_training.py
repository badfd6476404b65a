import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dds import storage, training

TARGET = jnp.array([1.0, -2.0, 0.5])


def loss(params, key):
    return jnp.sum((params["x"] - TARGET + 0.1 * jax.random.normal(key, (3,))) ** 2)


def start():
    return {"x": jnp.zeros(3)}


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


OPTIMISER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(0.1, 300)))
KEY = jax.random.key(0)


def test_it_finds_the_minimum():
    run = training.fit(KEY, start(), loss, OPTIMISER, 300)
    np.testing.assert_allclose(run.params["x"], TARGET, atol=0.05)
    assert run.losses.shape == (300,)
    assert run.losses[-50:].mean() < run.losses[:10].mean()
    assert run.state.skipped == 0


@pytest.mark.parametrize("block", [1, 7, 100, 1000])
def test_blocks_do_not_change_a_bit(block):
    whole = training.fit(KEY, start(), loss, OPTIMISER, 50, block=50)
    cut = training.fit(KEY, start(), loss, OPTIMISER, 50, block=block)
    assert_same(whole.state, cut.state)
    np.testing.assert_array_equal(whole.losses, cut.losses)


def test_resuming_is_bit_for_bit_an_uninterrupted_run(tmp_path):
    whole = training.fit(KEY, start(), loss, OPTIMISER, 60, block=20)
    half = training.fit(KEY, start(), loss, OPTIMISER, 25, block=20)
    storage.save(tmp_path / "state.npz", half.state)
    stored = storage.load(tmp_path / "state.npz", half.state)
    rest = training.resume(stored, loss, OPTIMISER, 35, block=20)
    assert_same(whole.state, rest.state)
    np.testing.assert_array_equal(whole.losses, np.concatenate([half.losses, rest.losses]))


def test_what_was_given_stays_usable():
    params = start()
    first = training.fit(KEY, params, loss, OPTIMISER, 10)
    training.resume(first.state, loss, OPTIMISER, 10)
    assert params["x"].tolist() == [0.0, 0.0, 0.0]  # a donated buffer would raise
    assert np.isfinite(first.state.params["x"]).all()


def test_updates_that_are_not_finite_are_skipped_and_counted():
    def broken_sometimes(params, key):
        return jnp.where(jax.random.bernoulli(key, 0.3), jnp.nan, 1.0) * loss(params, key)

    run = training.fit(KEY, start(), broken_sometimes, OPTIMISER, 200)
    assert run.state.skipped == np.isnan(run.losses).sum() > 30
    assert int(run.state.updates) == 200
    np.testing.assert_allclose(run.params["x"], TARGET, atol=0.3)


def test_no_state_is_lost_when_every_update_fails():
    good = training.fit(KEY, start(), loss, OPTIMISER, 50)
    bad = training.resume(good.state, lambda params, key: jnp.nan * loss(params, key), OPTIMISER, 500)
    assert bad.state.skipped == 500
    assert_same(good.params, bad.params)


def test_callback_sees_every_block_and_can_stop():
    seen = []

    def callback(state, losses):
        seen.append((int(state.updates), len(losses)))
        return int(state.updates) >= 40

    run = training.fit(KEY, start(), loss, OPTIMISER, 100, block=20, callback=callback)
    assert seen == [(20, 20), (40, 20)]
    assert len(run.losses) == 40
    seen.clear()
    training.fit(KEY, start(), loss, OPTIMISER, 30, block=20, callback=lambda s, b: seen.append(len(b)))
    assert seen == [20, 10]


def test_the_loss_is_traced_once_however_long_and_often_it_trains():
    traces = []

    def counted(params, key):
        traces.append(None)
        return loss(params, key)

    run = training.fit(KEY, start(), counted, OPTIMISER, 30, block=20)
    first = len(traces)
    for updates in (1, 20, 35):
        run = training.resume(run.state, counted, OPTIMISER, updates, block=20)
    assert len(traces) == first


def test_same_key_same_result():
    assert_same(*(training.fit(KEY, start(), loss, OPTIMISER, 20).state for _ in range(2)))
    other = training.fit(jax.random.key(1), start(), loss, OPTIMISER, 20)
    assert not np.array_equal(other.losses, training.fit(KEY, start(), loss, OPTIMISER, 20).losses)
