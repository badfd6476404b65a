import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dds import storage, training
from dds.types import Family

TARGET = jnp.array([1.0, -2.0, 0.5])
FAMILY = Family(lambda key: {"x": jnp.zeros(3)}, lambda params: params["x"])  # a toy, of no sampler at all


def loss(sampler, key):
    return jnp.sum((sampler - TARGET + 0.1 * jax.random.normal(key, (3,))) ** 2)


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


OPTIMISER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(0.1, 300)))
KEY = jax.random.key(0)


def test_it_finds_the_minimum():
    run = training.fit(KEY, FAMILY, loss, OPTIMISER, 300)
    np.testing.assert_allclose(run.params["x"], TARGET, atol=0.05)
    assert run.losses.shape == (300,)
    assert run.losses[-50:].mean() < run.losses[:10].mean()
    assert run.state.skipped == 0


@pytest.mark.parametrize("block", [1, 7, 100, 1000])
def test_blocks_do_not_change_a_bit(block):
    whole = training.fit(KEY, FAMILY, loss, OPTIMISER, 50, block=50)
    cut = training.fit(KEY, FAMILY, loss, OPTIMISER, 50, block=block)
    assert_same(whole.state, cut.state)
    np.testing.assert_array_equal(whole.losses, cut.losses)


def test_resuming_is_bit_for_bit_an_uninterrupted_run(tmp_path):
    whole = training.fit(KEY, FAMILY, loss, OPTIMISER, 60, block=20)
    half = training.fit(KEY, FAMILY, loss, OPTIMISER, 25, block=20)
    storage.save(tmp_path / "state.npz", half.state)
    stored = storage.load(tmp_path / "state.npz", training.start(KEY, FAMILY, OPTIMISER))
    rest = training.resume(stored, FAMILY, loss, OPTIMISER, 35, block=20)
    assert_same(whole.state, rest.state)
    np.testing.assert_array_equal(whole.losses, np.concatenate([half.losses, rest.losses]))


def test_the_start_is_the_state_before_the_first_update():
    start = training.start(KEY, FAMILY, OPTIMISER)
    assert (int(start.updates), start.skipped) == (0, 0)
    resumed = training.resume(start, FAMILY, loss, OPTIMISER, 20)
    assert_same(resumed, training.fit(KEY, FAMILY, loss, OPTIMISER, 20))


def test_what_was_given_stays_usable():
    params = {"x": jnp.ones(3)}
    first = training.fit(KEY, FAMILY, loss, OPTIMISER, 10, params=params)
    training.resume(first.state, FAMILY, loss, OPTIMISER, 10)
    assert params["x"].tolist() == [1.0, 1.0, 1.0]  # a donated buffer would raise
    assert np.isfinite(first.state.params["x"]).all()
    assert not np.array_equal(first.losses, training.fit(KEY, FAMILY, loss, OPTIMISER, 10).losses)


def test_parameters_may_have_seen_the_key():
    # The key of the parameters is not that of an update.
    seen = []

    def init(key):
        seen.append(key)
        return jax.random.normal(key, (3,))

    state = training.start(KEY, Family(init, lambda params: params), OPTIMISER)
    assert_same(state.params, jax.random.normal(seen[0], (3,)))
    used = [seen[0], KEY, state.key]
    assert len({jax.random.key_data(key).tobytes() for key in used}) == 3


def test_updates_that_are_not_finite_are_skipped_and_counted():
    def broken_sometimes(sampler, key):
        return jnp.where(jax.random.bernoulli(key, 0.3), jnp.nan, 1.0) * loss(sampler, key)

    run = training.fit(KEY, FAMILY, broken_sometimes, OPTIMISER, 200)
    assert run.state.skipped == np.isnan(run.losses).sum() > 30
    assert int(run.state.updates) == 200
    np.testing.assert_allclose(run.params["x"], TARGET, atol=0.3)


def test_no_state_is_lost_when_every_update_fails():
    good = training.fit(KEY, FAMILY, loss, OPTIMISER, 50)
    with pytest.warns(UserWarning, match="500 of 500 updates had no finite gradient and were skipped"):
        bad = training.resume(good.state, FAMILY, lambda sampler, key: jnp.nan * loss(sampler, key), OPTIMISER, 500)
    assert bad.state.skipped == 500
    assert_same(good.params, bad.params)


def test_callback_sees_every_block_and_can_stop():
    seen = []

    def callback(state, losses):
        seen.append((int(state.updates), len(losses)))
        return int(state.updates) >= 40

    run = training.fit(KEY, FAMILY, loss, OPTIMISER, 100, block=20, callback=callback)
    assert seen == [(20, 20), (40, 20)]
    assert len(run.losses) == 40
    seen.clear()
    training.fit(KEY, FAMILY, loss, OPTIMISER, 30, block=20, callback=lambda s, b: seen.append(len(b)))
    assert seen == [20, 10]


def test_the_loss_is_traced_once_however_long_and_often_it_trains():
    traces = []

    def counted(sampler, key):
        traces.append(None)
        return loss(sampler, key)

    run = training.fit(KEY, FAMILY, counted, OPTIMISER, 30, block=20)
    first = len(traces)
    for updates in (1, 20, 35):
        run = training.resume(run.state, FAMILY, counted, OPTIMISER, updates, block=20)
    assert len(traces) == first


def test_same_key_same_result():
    assert_same(*(training.fit(KEY, FAMILY, loss, OPTIMISER, 20).state for _ in range(2)))
    other = training.fit(jax.random.key(1), FAMILY, loss, OPTIMISER, 20)
    assert not np.array_equal(other.losses, training.fit(KEY, FAMILY, loss, OPTIMISER, 20).losses)


def test_a_state_of_another_optimiser_is_refused():
    state = training.start(KEY, FAMILY, optax.adam(0.1))
    for other in (optax.sgd(0.1, momentum=0.9), optax.chain(optax.clip(1.0), optax.adam(0.1)), OPTIMISER):
        with pytest.raises(ValueError, match=r"the optimiser's part of state\S+ must be .*, got"):
            training.resume(state, FAMILY, loss, other, 10)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"x": jnp.zeros(4)}, r"\['x'\] must be \(\(3,\), 'float32'\), got \(\(4,\), 'float32'\)"),
        ({"x": jnp.zeros(3, int)}, r"\['x'\] must be \(\(3,\), 'float32'\), got \(\(3,\), 'int32'\)"),
        ({"y": jnp.zeros(3)}, r"\['x'\] must be \(\(3,\), 'float32'\), got nothing"),
        ({"x": jnp.zeros(3), "y": jnp.zeros(3)}, r"\['y'\] must be absent, got \(\(3,\), 'float32'\)"),
    ],
)
def test_parameters_of_another_family_are_refused(params, message):
    with pytest.raises(ValueError, match=f"^params{message}"):
        training.fit(KEY, FAMILY, loss, OPTIMISER, 10, params=params)
    state = training.start(KEY, Family(lambda key: params, lambda params: params), OPTIMISER)
    with pytest.raises(ValueError, match=f"^the parameters of state{message}"):
        training.resume(state, FAMILY, loss, OPTIMISER, 10)
