"""Every doubt is raised on the one side of its limit, and not on the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dds import evaluation
from dds.evaluation import Report, has_heavy_tail, summarise
from dds.trust import findings, verdict


def doubts(report):
    return [finding.consequence for finding in findings(report) if not finding.holds]


EVEN = np.zeros(1000, np.float32)
GOOD = Report(
    paths=10_000,
    log_z=1.0,
    log_z_standard_error=0.01,
    log_z_true=1.0,
    elbo=0.9,
    eubo=1.1,
    ess=0.8,
    forward_ess=0.8,
    pareto_k=0.2,
    missed_mass=0.01,
    missed_exact=0.01,
    heavy_share=0.2,
    missed_modes=0.0,
    missed_tails=0.0,
    escaped=0.0,
    settled=True,
    samples=8000.0,
)


def with_some(count, value, total=1000, rest=0.0):
    """Log weights of which the first few have another value."""
    return np.concatenate([np.full(count, value), np.full(total - count, rest)]).astype(np.float32)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ({"pareto_k": 0.699}, {"pareto_k": 0.701}, "Pareto k is 0.70, above 0.70"),
        ({"paths": 400, "pareto_k": 0.61}, {"paths": 400, "pareto_k": 0.62}, "Pareto k is 0.62, above 0.62"),
        ({"paths": 100, "pareto_k": 0.49}, {"paths": 100, "pareto_k": 0.51}, "above 0.50"),
        # A heavy tail that carries next to nothing is no reason for doubt, nor one that the bridge has mended.
        ({"pareto_k": 2.0, "heavy_share": 0.05}, {"pareto_k": 2.0, "heavy_share": 0.051}, "Pareto k is 2.00"),
        ({"pareto_k": 2.0, "log_z_of_bridge": 1.0, "log_z_of_weights": 1.0}, {"pareto_k": 2.0}, "Pareto k is 2.00"),
        (
            {"log_z_of_bridge": 1.0, "log_z_of_weights": 0.901, "log_z_of_weights_standard_error": 0.01},
            {"log_z_of_bridge": 1.0, "log_z_of_weights": 0.899, "log_z_of_weights_standard_error": 0.01},
            "log Z is 0.899 by the weights, but 1.000 by the bridge",
        ),
        ({"missed_modes": 0.005}, {"missed_modes": 0.0051}, "about 0.5% of the mass, and so of Z, lies in modes"),
        ({"missed_modes": None}, {"missed_modes": np.nan}, "about nan% of the mass"),
        ({"missed_tails": 0.005}, {"missed_tails": 0.0051}, "at least 0.5% of the mass, and so of Z, lies farther out"),
        ({"missed_tails": None}, {"missed_tails": np.nan}, "at least nan% of the mass"),
        (
            {"escaped": 0.0002},
            {"escaped": 0.0011},
            "chains from the samples go on to where no path ends, at least 0.11%",
        ),
        ({"escaped": None}, {"escaped": np.nan}, "at least nan% of the mass"),
        ({"escaped": 1e-6}, {"escaped": 0.0003}, "at least 0.03%"),
        ({"missed_mass": 0.5, "settled": False}, {"missed_mass": 0.5, "where": "at coordinate 1"}, "at coordinate 1"),
        ({"pareto_k": -np.inf}, {"pareto_k": np.nan}, "Pareto k is nan"),
        ({"samples": 100.0}, {"samples": 99.0}, "10000 paths are worth only 99 samples"),
        ({"samples": 100.0}, {"samples": np.nan}, "worth only no samples"),
        (
            {"missed_exact": 0.02},
            {"missed_exact": 0.021},
            "of exact samples 2.1% have weights that 1% should have",
        ),
        ({"missed_exact": None}, {"missed_exact": np.nan}, "the check by exact samples failed"),
        ({"missed_mass": 0.03}, {"missed_mass": 0.031}, "of points found by other means 3.1% have weights that 1%"),
        ({"missed_mass": None}, {"missed_mass": np.nan}, "the check by points found by other means failed"),
        # Another sampler's larger log Z counts beyond four standard errors of the difference; a smaller one does not.
        (
            {"log_z_of_another": 1.049, "log_z_of_another_standard_error": 0.0075},
            {"log_z_of_another": 1.051, "log_z_of_another_standard_error": 0.0075},
            "another sampler found more, log Z 1.051 instead of 1.000",
        ),
        ({"log_z_of_another": 0.0}, {"log_z_of_another": np.nan}, "another sampler found more"),
        ({"log_z_true": 1.039}, {"log_z_true": 1.041}, "log Z is off the truth by 0.041"),
        ({"log_z_true": 0.961}, {"log_z_true": 0.959}, "log Z is off the truth by 0.041"),
        ({"log_z_true": None}, {"log_z_true": np.nan}, "the true log Z or its error is not a finite number"),
        ({}, {"log_z_true": np.inf}, "the true log Z or its error is not a finite number"),
        # The two errors add as they do for independent estimates: 4 * hypot(0.01, 0.0075) is 0.05.
        (
            {"log_z_true": 1.0499, "log_z_true_error": 0.0075},
            {"log_z_true": 1.0501, "log_z_true_error": 0.0075},
            "off the truth",
        ),
        ({"log_z_true_error": 1.0}, {"log_z_true_error": np.nan}, "the true log Z or its error is not a finite number"),
        ({}, {"log_z_true_error": np.inf}, "the true log Z or its error is not a finite number"),
        ({"elbo": -np.inf}, {"elbo": np.inf}, "some weights are infinite or not a number"),
        ({}, {"log_z": np.nan, "log_z_true": None}, "some weights are infinite or not a number, or all are zero"),
        ({"log_z_true": None}, {"log_z": -np.inf, "log_z_true": None}, "or all are zero"),
        ({}, {"log_z_standard_error": np.nan, "log_z_true": None}, "some weights are infinite or not a number"),
    ],
)
def test_limits(good, bad, message):
    assert doubts(GOOD._replace(**good)) == []
    (doubt,) = doubts(GOOD._replace(**bad))
    assert message in doubt


def test_exact_samples_show_what_is_missed():
    assert doubts(summarise(EVEN, forward_log_weights=with_some(20, 0.9))) == []
    (doubt,) = doubts(summarise(EVEN, forward_log_weights=with_some(500, 12.0)))  # half is hardly visited
    assert "the sampler hardly visits where they are" in doubt
    # One of a thousand makes their ESS zero, and is one of a thousand.
    one = summarise(EVEN, forward_log_weights=with_some(1, 20.0))
    assert (one.forward_ess, one.missed_exact, doubts(one)) == (pytest.approx(0, abs=1e-5), 0.001, [])


def test_points_found_by_other_means_show_what_is_missed():
    for count, missed in ((30, False), (31, True)):
        report = summarise(EVEN, explored_log_weights=with_some(count, 2.0))
        assert report.missed_mass == pytest.approx(count / 1000)
        assert bool(doubts(report)) == missed
    # Weights that 1 % of the target or more has are known to the sampler: points like these are not missed.
    known = with_some(50, 2.0)
    assert summarise(known, explored_log_weights=known).missed_mass == 0
    # One path that saw a weight by chance has not seen what fifty times as many points say is there.
    assert summarise(with_some(1, 2.0), explored_log_weights=known).missed_mass == pytest.approx(0.05)
    # Points may have weight zero, and weights that differ by rounding are the same.
    assert summarise(EVEN, explored_log_weights=with_some(500, -np.inf)).missed_mass == 0
    assert summarise(EVEN, explored_log_weights=EVEN + np.float32(1e-4)).missed_mass == 0


@pytest.mark.parametrize("name", ["forward_log_weights", "explored_log_weights"])
@pytest.mark.parametrize(
    "weights",
    [
        with_some(1, np.nan),
        with_some(1, np.inf),
        with_some(1000, np.inf),
        with_some(1000, -np.inf),
        with_some(500, np.inf, rest=-np.inf),
        np.zeros(0, np.float32),
    ],
    ids=["one NaN", "one inf", "all inf", "all -inf", "both", "none"],
)
def test_broken_evidence_counts_against_trust(name, weights):
    report = summarise(EVEN, **{name: weights})
    assert len(doubts(report)) == 1
    assert verdict(report).startswith("Do not trust log Z and the weighted samples: ")


@pytest.mark.parametrize(
    "weights",
    [with_some(1, np.nan), with_some(1, np.inf), with_some(1000, -np.inf), with_some(500, np.inf, rest=-np.inf)],
    ids=["one NaN", "one inf", "all -inf", "both"],
)
def test_broken_weights(weights):
    report = summarise(weights, log_z_true=0.0, forward_log_weights=EVEN, explored_log_weights=EVEN)
    assert "some weights are infinite or not a number, or all are zero" in doubts(report)[0]
    assert np.isnan(report.missed_mass)


@pytest.mark.parametrize("count", [500, 900, 901])
def test_weights_of_zero_are_no_fault(count):
    report = summarise(with_some(count, -np.inf))
    assert report.elbo == -np.inf
    assert report.ess == pytest.approx(1 - count / 1000)
    assert bool(doubts(report)) == (count == 901)  # 99 samples


@pytest.mark.parametrize(
    ("weights", "few"),
    [
        (with_some(1, 20.0), True),
        (with_some(1, 0.0, rest=-1000.0), True),
        (with_some(10, 0.0, rest=-1000.0), True),
        (3 * np.asarray(jax.random.normal(jax.random.key(0), (1000,))), True),
        (0.3 * np.asarray(jax.random.normal(jax.random.key(0), (1000,))), False),
    ],
)
def test_heavy_tails(weights, few):
    assert any("a few paths carry the estimate" in doubt for doubt in doubts(summarise(weights))) == few


VALUES = st.sampled_from([-np.inf, -3e38, -1000.0, -1.0, 0.0, 1e-7, 1.0, 80.0, 1e5, 3e38, np.inf, np.nan])
GROUPS = st.lists(st.tuples(VALUES, st.integers(1, 120)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=200)
@given(GROUPS, st.just([]) | GROUPS, st.just([]) | GROUPS, st.floats(), st.floats(min_value=0))
def test_no_weights_can_make_it_fail(own, forward, explored, truth, error):
    """A training that is finished is never lost to its evaluation."""
    own, forward, explored = (
        np.resize(np.array([value for value, count in groups for _ in range(count)], np.float32), count)
        for groups, count in ((own, 1000), (forward, 100 if forward else 0), (explored, 100 if explored else 0))
    )
    report = summarise(
        own, log_z_true=truth, log_z_true_error=error, forward_log_weights=forward, explored_log_weights=explored
    )
    words = verdict(report)
    assert words.startswith(("Trust", "Do not trust"))
    if any(not np.all(weights < np.inf) or weights.size == 0 for weights in (own, forward, explored)):
        assert words.startswith("Do not trust")


def test_verdicts_say_what_was_checked():
    assert "without exact samples nothing here can show a mode" in verdict(summarise(EVEN))
    checked = verdict(summarise(EVEN, explored_log_weights=EVEN))
    assert "neither the paths nor the search by other means found" in checked
    assert verdict(summarise(EVEN, forward_log_weights=EVEN)).endswith("also as seen from exact samples.")
    several = verdict(summarise(with_some(1, 20.0), log_z_true=0.0))
    assert several.count("; ") == len(doubts(summarise(with_some(1, 20.0), log_z_true=0.0))) - 1 >= 1


def test_figures_of_known_weights():
    report = summarise(jnp.log(jnp.array([1.0, 3.0])).repeat(500), log_z_true=0.7, log_z_true_error=0.1)
    assert report.paths == 1000
    assert report.log_z == pytest.approx(np.log(2))
    assert report.log_z_standard_error == pytest.approx(0.5 / np.sqrt(999))
    assert report.elbo == pytest.approx(np.log(3) / 2)
    assert report.ess == pytest.approx(0.8)
    assert (report.log_z_true, report.log_z_true_error) == (0.7, 0.1)
    assert report.eubo is report.forward_ess is report.missed_mass is None
    assert report.samples == pytest.approx(800)
    assert report.log_z_of_weights == report.log_z


def test_too_few_paths_are_refused():
    with pytest.raises(ValueError, match="log_weights must be 25 or more, got 24 of them"):
        summarise(np.zeros(24, np.float32))
    assert evaluation.summarise(np.zeros(25, np.float32)).paths == 25


def test_the_bridge_takes_over_with_its_difference_to_the_weights_as_a_part_of_the_error():
    even = summarise(EVEN, refined_log_weights=EVEN)
    assert (even.log_z, even.log_z_of_bridge, even.eubo_of_particles) == (pytest.approx(0.0, abs=1e-6),) * 3
    assert even.samples == pytest.approx(2000)
    # The weights say 0 with no error of their own; paths of the target say that half of it lies elsewhere.
    report = summarise(EVEN, refined_log_weights=with_some(500, 20.0))
    assert report.log_z == pytest.approx(np.log(2), abs=0.01)
    assert report.log_z_standard_error > np.log(2) / 2
    assert "by the bridge" in doubts(report)[0]


def test_the_weights_are_taken_where_they_are_better_and_agree():
    rng = np.random.default_rng(0)
    own = (0.5 * rng.normal(size=100_000) - 0.125).astype(np.float32)  # over the target the mean is higher by .25
    refined = (0.5 * rng.normal(size=2000) + 0.125).astype(np.float32)
    both = summarise(own, refined_log_weights=refined)
    assert both.log_z == both.log_z_of_weights != both.log_z_of_bridge
    assert both.log_z_standard_error == pytest.approx(both.log_z_of_weights_standard_error)
    assert abs(both.log_z) < 5 * both.log_z_standard_error
    # Poor weights can be far below what they claim: they are not taken, however many there are.
    poor = np.where(rng.random(100_000) < 0.02, np.log(50.0), np.log(1e-3)).astype(np.float32)
    report = summarise(poor, refined_log_weights=np.full(2000, np.log(50.0), np.float32))
    assert report.log_z_of_weights_standard_error < 0.05
    assert report.ess < 0.1
    assert report.log_z == report.log_z_of_bridge
    # Of few paths the bridge knows more.
    few = summarise(own[:1000], refined_log_weights=refined)
    assert few.log_z == few.log_z_of_bridge
    # If the bridge is far above, something is missed; if it is far below, refined paths have not arrived.
    above, below = (summarise(own, refined_log_weights=refined + change) for change in (1.0, -1.0))
    assert above.log_z == above.log_z_of_bridge > both.log_z
    for report in (above, below):
        apart = abs(report.log_z_of_bridge - report.log_z_of_weights)
        assert report.log_z_standard_error > apart / 2 - 3 * both.log_z_of_weights_standard_error
    assert below.log_z == below.log_z_of_weights


def test_what_the_bridge_still_moved_is_a_part_of_its_error():
    rng = np.random.default_rng(0)
    own = (rng.normal(size=1000) - 0.5).astype(np.float32)
    refined = (rng.normal(size=2000) + 0.5).astype(np.float32)
    calm, moving = (summarise(own, refined_log_weights=refined, drift=drift) for drift in (0.0, 0.02))
    assert calm.log_z == calm.log_z_of_bridge == moving.log_z
    assert np.hypot(calm.log_z_standard_error, 0.02) == pytest.approx(moving.log_z_standard_error)


def test_differences_name_the_coordinate_and_the_place():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(1000, 3))
    points = rng.normal(size=(20, 3)) + np.array([0.0, -7.0, 3.0])
    assert evaluation.differences(points, samples, EVEN).startswith("at coordinate 1 about -")
    assert evaluation.differences(points[:0], samples, EVEN) == ""


@pytest.mark.parametrize("report", [GOOD, GOOD._replace(forward_ess=None, missed_exact=None, eubo=None)])
def test_a_verdict_names_the_precision(report):
    assert verdict(report).startswith("Trust log Z to within 0.02 (two standard errors) and the weighted samples, wort")


def test_a_check_that_did_not_arrive_is_said_and_does_not_accuse():
    report = GOOD._replace(settled=False, missed_mass=0.9, missed_exact=None)
    assert "did not arrive at the target, and say nothing" in verdict(report)
    assert verdict(report).startswith("Trust")


def test_the_standard_error_knows_what_a_heavy_tail_hides():
    # Weights u^-k, with a mean of 1 / (1 - k): without a variance the spread of those drawn says too little.
    rng = np.random.default_rng(0)
    for k, least in {0.3: 0.97, 0.85: 0.8}.items():
        hits, naive, added = [], [], 0.0
        for _ in range(60):
            report = summarise((-k * np.log(rng.random(10_000))).astype(np.float32))
            error = abs(report.log_z + np.log(1 - k))
            hits.append(error <= 3 * report.log_z_standard_error)
            naive.append(error <= 3 * report.log_z_of_weights_standard_error)
            added += report.log_z_standard_error - report.log_z_of_weights_standard_error
        assert np.mean(hits) >= least
        assert np.mean(hits) >= np.mean(naive)
        assert (added > 0) == (np.mean(naive) < 0.7) == (k > 0.5)


def test_what_a_heavy_tail_hides_is_that_of_the_fewer_paths_that_are_refined():
    # Weights u^-k; over the target u is distributed with the density (1 - k) u^-k.
    k, rng = 0.75, np.random.default_rng(0)
    own = (-k * np.log(rng.random(10_000))).astype(np.float32)
    refined = (-k / (1 - k) * np.log(rng.random(2000))).astype(np.float32)
    report = summarise(own, refined_log_weights=refined)
    assert report.pareto_k > 0.7
    assert report.log_z == report.log_z_of_bridge
    assert report.heavy_share > 0.05
    hidden = report.heavy_share * 20 ** (report.pareto_k - 1)  # the largest hundredth of 2,000
    assert report.log_z_standard_error >= hidden > 1.3 * report.heavy_share * 100 ** (report.pareto_k - 1)
    assert abs(report.log_z + np.log(1 - k)) < 3 * report.log_z_standard_error


@pytest.mark.parametrize("name", ["missed_modes", "missed_tails", "escaped"])
def test_what_is_known_to_be_missed_is_a_part_of_the_standard_error(name):
    report = summarise(np.zeros(1000, np.float32), **{name: 0.1})
    assert report.log_z_standard_error == pytest.approx(0.1)


def test_a_heavy_tail_is_one_that_carries_something():
    # Of weights u^-k the largest hundredth carries .01^(1 - k): .40 and .025; a constant beside them makes it less.
    u = np.random.default_rng(0).random(10_000)
    assert has_heavy_tail(-0.8 * np.log(u))
    assert not has_heavy_tail(-0.2 * np.log(u))
    assert not has_heavy_tail(np.log(50 + u**-0.8))
    # Without a mean any number can lie in the tail, however little the largest weights carry.
    assert has_heavy_tail(np.log(3000 + u**-1.3))
