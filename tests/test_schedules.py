import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dds import schedules

ALL = [schedules.cosine, schedules.linear, schedules.exponential, schedules.constant]


@pytest.mark.parametrize("schedule", ALL)
@settings(deadline=None, max_examples=30)
@given(steps=st.integers(1, 200), share=st.floats(0.01, 0.99))
def test_fractions_are_k_numbers_between_zero_and_one_that_fall(schedule, steps, share):
    total = share * steps / 5 if steps > 1 else share  # the steepest has a fifth of the sum of a constant one
    b = np.asarray(schedule(steps, total=total))
    assert b.shape == (steps,)
    assert ((b > 0) & (b < 1)).all()
    assert b.sum() == pytest.approx(total, rel=1e-5)
    assert (np.diff(b) <= 1e-7).all()


def test_cosine_is_the_authors_grid_without_its_empty_last_step():
    b = np.asarray(schedules.cosine(64, total=3.7))
    phase = (np.arange(64) / 64 + 0.008) / 1.008 * np.pi / 2
    np.testing.assert_allclose(b / b[0], np.cos(phase) ** 4 / np.cos(phase[0]) ** 4, rtol=1e-4)


def test_shapes_are_their_formulas():
    k = np.arange(5) / 4
    falls = {schedules.linear: 1 - 0.9 * k, schedules.exponential: 0.1**k}
    for schedule, shape in falls.items():
        np.testing.assert_allclose(schedule(5, total=1.5, last=0.1), 1.5 * shape / shape.sum(), rtol=1e-6)


@pytest.mark.parametrize("schedule", ALL)
def test_dtype_follows_the_precision(schedule, precision):
    assert schedule(4, total=1.0).dtype == precision


@pytest.mark.parametrize("schedule", ALL)
def test_a_fraction_that_rounds_to_one_is_refused(schedule, precision):
    total = {"float32": 1 - 1e-9, "float64": 1 - 1e-17}[precision]
    with pytest.raises(ValueError, match=r"every noise fraction b_k .* must be in \(0, 1\), got \[1\.\]"):
        schedule(1, total=total)


def test_a_fraction_next_to_one_is_not(float64):
    assert schedules.constant(1, total=1 - 1e-9)[0] < 1
