"""What a target looks like before anything is trained: modes, normal fit, neck, and the prior to draw from."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import problem_set
import pytest
import scipy.stats
from jax.scipy.stats import norm

from dds import (
    adaptation,
    choices,
    conditional,
    coordinates,
    estimators,
    exploration,
    families,
    losses,
    mixtures,
    modes,
    necks,
    normal,
    paths,
    remedies,
    sampling,
    search,
    smc,
    targets,
)
from dds.modes import Modes
from dds.types import Normal

LOG_Z = 5.5
COUNT = 20_000
MEAN, DEVIATIONS = np.array([1.0, -2.0, 0.5]), np.array([0.7, 1.4, 1.0])
WIDE = Normal(jnp.zeros(3), jnp.array(3.0))
LEFT, RIGHT = np.array([-3.0, 0.0, 0.0]), np.array([3.0, 1.0, 0.0])
TWO = targets.gaussian_mixture(jnp.asarray([LEFT, RIGHT]), jnp.array([1.0, 0.3]), jnp.array([3.0, 1.0]))
FUNNEL = targets.funnel(3)


def one_mode(x):
    return normal.log_density(Normal(jnp.asarray(MEAN, x.dtype), jnp.asarray(DEVIATIONS, x.dtype)), x) + LOG_Z


def two_modes(x):
    return TWO.log_density(x) + LOG_Z


def a_funnel(x):
    return FUNNEL.log_density(x) + LOG_Z


def many(x):
    return -2 * jnp.sum((x - 1) ** 2) + LOG_Z


def slope(x):
    return jnp.sum(x)


@pytest.fixture(autouse=True)
def few_climbs(monkeypatch):
    monkeypatch.setattr(modes, "OPERATIONS", 1e4)


def coordinates_of(log_density, found):
    return found.coordinates if found.neck is None else conditional.bijection(found.neck)


def drawn(log_density, found, count=COUNT):
    """Points and ratios of weights to Z, of importance sampling with what was found."""
    sampler = families.importance(coordinates_of(log_density, found), found.prior).sampler(())

    def one(key):
        path = paths.sample_path(key, sampler)
        return path.x, losses.log_weight(path, log_density)

    x, log_w = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(7), count))
    return np.asarray(x), np.exp(np.asarray(log_w, np.float64) - LOG_Z)


def requires_z(ratio):
    assert abs(ratio.mean() - 1) < 6 * ratio.std() / np.sqrt(len(ratio))


def missed(log_density, found, known, log_z=LOG_Z):
    place = normal.bijection(coordinates_of(log_density, found))

    def weigh(points):
        def one(x):
            y, log_determinant = place.inverse(x)
            return log_density(x) + log_determinant - mixtures.log_density(found.prior, y)

        return jax.vmap(one)(points)

    return exploration.uncovered(log_density, weigh, log_z, known).shares


def both_modes():
    scales = jnp.array([1.0, 0.3])[:, None, None] * jnp.eye(3)[None]
    log_masses = jnp.log(jnp.array([0.75, 0.25])) + LOG_Z
    return Modes(jnp.asarray([LEFT, RIGHT], jnp.float32), scales, log_masses, np.array([2, 2]), 0)


@pytest.mark.slow
def test_a_normal_target():
    found = search.search(jax.random.key(0), one_mode, WIDE)
    assert found.finding == "one mode, with a normal fit"
    assert (found.neck, found.fitted, found.several_modes) == (None, True, False)
    assert found.ess > 0.9
    np.testing.assert_allclose(found.coordinates.mean, MEAN, atol=1e-3)
    np.testing.assert_allclose(found.coordinates.scale, np.diag(DEVIATIONS), atol=1e-3)
    np.testing.assert_allclose(found.modes.log_masses, [LOG_Z], atol=1e-3)
    _, ratio = drawn(one_mode, found)
    requires_z(ratio)
    # The effective sample size of 4096 draws, against that of others.
    terms = ratio / ratio.mean()
    error = np.std(2 * terms - terms**2) * np.sqrt(1 / 4096 + 1 / COUNT)
    assert abs(found.ess - 1 / np.mean(terms**2)) < 6 * error
    # A tenth of the draws at most is lost to the wide distribution.
    assert ratio.max() < 1 / 0.9 * 1.1


def test_a_start_that_is_the_target_is_a_fit():
    start = Normal(jnp.asarray(MEAN, jnp.float32), jnp.asarray(DEVIATIONS, jnp.float32))
    found = search.search(jax.random.key(1), one_mode, start)
    assert (found.neck, found.fitted, found.several_modes) == (None, True, False)
    assert found.finding == "one mode, with a normal fit"
    assert found.ess > 0.95
    np.testing.assert_allclose(found.coordinates.mean, MEAN, atol=1e-3)


def test_without_a_neck_the_prior_is_the_adapted_one(monkeypatch):
    adapted = adaptation.Adapted(mixtures.of_normal(normal.standard(3)), 1.0, 1)
    monkeypatch.setattr(search, "_suffices", lambda log_weights, precision: False)
    monkeypatch.setattr(adaptation, "adapt", lambda *arguments, **options: adapted)
    found = search.search(jax.random.key(0), one_mode, WIDE)
    assert (found.neck, found.ess) == (None, 1.0)
    assert found.prior is adapted.prior


@pytest.mark.slow
def test_a_neck_is_to_be_good_and_not_much_worse_than_what_there_is(monkeypatch):
    table = conditional.tabulate(a_funnel, normal.standard(3), jnp.eye(3)[:1])
    monkeypatch.setattr(necks, "search", lambda *arguments: (jnp.eye(3)[:1], 0))
    monkeypatch.setattr(conditional, "tabulate", lambda *arguments: table)
    prior = mixtures.of_normal(normal.standard(3))
    for before, ess, taken in ((0.1, 0.29, False), (0.1, 0.31, True), (0.9, 0.44, False), (0.9, 0.46, True)):
        adapted = adaptation.Adapted(mixtures.of_normal(normal.standard(1)), ess, 1)
        monkeypatch.setattr(adaptation, "adapt", lambda *arguments, adapted=adapted: adapted)
        found = search.Found(normal.standard(3), prior, None, before, True, modes.none(3), False, "", 0)
        neck = search._with_neck(jax.random.key(0), a_funnel, normal.standard(3), found, None)
        assert (neck.neck is not None, neck.ess) == (taken, ess if taken else before)
        assert neck.evaluations > table[1]
    # Where what was found suffices, it has to, too.
    for enough in (False, True):
        monkeypatch.setattr(search, "_suffices", lambda *arguments, enough=enough: enough)
        neck = search._with_neck(jax.random.key(0), a_funnel, normal.standard(3), found, 0.01)
        assert (neck.neck is not None) == enough


@pytest.mark.parametrize(("tail", "tried"), [(-0.1, 0), (0.3, 1)])
def test_a_neck_is_looked_for_where_what_suffices_could_miss_its_end(monkeypatch, tail, tried):
    precisions = []

    def with_neck(key, log_density, fit, found, precision):
        precisions.append(precision)
        return found

    monkeypatch.setattr(search, "GOOD", 1.1)
    monkeypatch.setattr(search, "_suffices", lambda *arguments: True)
    monkeypatch.setattr(search, "_with_neck", with_neck)
    monkeypatch.setattr(estimators, "pareto_k", lambda log_weights: tail)
    assert search.search(jax.random.key(0), one_mode, WIDE, precision=0.02).neck is None
    assert precisions == [0.02] * tried


def test_where_the_first_coordinate_alone_is_better_it_is_taken(monkeypatch):
    monkeypatch.setattr(necks, "search", lambda *arguments: (jnp.eye(3)[:2], 0))
    found = search.Found(
        normal.standard(3), mixtures.of_normal(normal.standard(3)), None, 0.1, True, modes.none(3), False, "", 0
    )

    def adapt(key, draw, prior):
        return adaptation.Adapted(prior, 0.6 if prior.means.shape[1] == 1 else 0.4, 1)

    monkeypatch.setattr(adaptation, "adapt", adapt)
    neck = search._with_neck(jax.random.key(0), a_funnel, normal.standard(3), found, None)
    assert neck.finding == "one mode, nearly normal given coordinate 0"


def test_a_neck_has_no_more_coordinates_than_a_table_is_affordable_for(monkeypatch):
    tabulated, original = [], conditional.tabulate

    def tabulate(log_density, fit, few):
        tabulated.append(len(few))
        return original(log_density, fit, few)

    found = search.Found(
        normal.standard(3), mixtures.of_normal(normal.standard(3)), None, 0.1, True, modes.none(3), False, "", 0
    )
    monkeypatch.setattr(necks, "search", lambda *arguments: (jnp.eye(3)[:2], 0))
    monkeypatch.setattr(conditional, "EFFORT", 64 * 3**3)
    monkeypatch.setattr(conditional, "tabulate", tabulate)
    search._with_neck(jax.random.key(0), a_funnel, normal.standard(3), found, None)
    assert tabulated == [1]


@pytest.mark.slow
def test_a_funnel():
    found = search.search(jax.random.key(0), a_funnel, normal.standard(3))
    assert (found.neck.order[0], found.fitted, found.several_modes) == (0, True, False)
    assert found.finding == "one mode, nearly normal given coordinate 0"
    assert found.ess > 0.8
    x, ratio = drawn(a_funnel, found)
    requires_z(ratio)
    assert np.mean(ratio) ** 2 / np.mean(ratio**2) > 0.8
    # The neck and the mouth have their share, a fortieth each beyond two standard deviations.
    for beyond in (x[:, 0] < -6, x[:, 0] > 6):
        terms = ratio * beyond
        assert abs(terms.mean() - 0.02275) < 6 * terms.std() / np.sqrt(COUNT)
    assert remedies.extend(jax.random.key(1), a_funnel, found, jnp.zeros((20, 3))) is found
    assert remedies.temper(jax.random.key(1), a_funnel, normal.standard(3), found) is found


@pytest.mark.slow
@pytest.mark.parametrize("dim", [3, 6])
def test_a_rotated_funnel(dim):
    rotation = jnp.asarray(scipy.stats.ortho_group.rvs(dim, random_state=dim), jnp.float32)
    funnel = targets.funnel(dim, scale=2.0).log_density
    found = search.search(jax.random.key(0), lambda x: funnel(rotation @ x), normal.standard(dim))
    assert found.finding == "one mode, nearly normal given a combination of coordinates"
    assert found.ess > 0.8
    x, ratio = drawn(lambda x: funnel(rotation @ x) + LOG_Z, found)
    requires_z(ratio)
    v = x @ rotation[0]
    for beyond in (v < -4, v > 4):
        terms = ratio * beyond
        assert abs(terms.mean() - 0.02275) < 6 * terms.std() / np.sqrt(COUNT)


@pytest.mark.slow
def test_counts_in_groups_have_a_neck():
    target = problem_set.counts_in_groups()
    assert target.log_z is not None
    found = search.search(jax.random.key(0), target.log_density, choices.starting_point(target))
    assert found.neck is not None
    assert found.neck.order[0] == 1
    assert found.ess > 0.5
    x, ratio = drawn(target.log_density, found)
    ratio *= np.exp(LOG_Z - target.log_z)
    requires_z(ratio)
    # By the same quadrature; samplers in other coordinates hardly see it.
    end = ratio * (x[:, 1] < -3)
    assert abs(end.mean() - 0.0173) < 6 * end.std() / np.sqrt(COUNT)


@pytest.mark.slow
def test_above_dense_dimensions_a_neck_is_found_where_the_density_is_cheap():
    target = problem_set.many_groups()
    assert target.dim > modes.DENSE
    assert target.log_z is not None
    found = search.search(jax.random.key(0), target.log_density, choices.starting_point(target))
    assert found.neck is not None
    assert found.neck.order[0] == 1
    assert found.ess > 0.5
    _, ratio = drawn(target.log_density, found, count=2000)
    requires_z(ratio * np.exp(LOG_Z - target.log_z))


def test_a_density_is_cheap_in_few_dimensions_or_with_few_operations():
    def costly(x):
        return -jnp.sum(jnp.square(jnp.ones((2000, x.size)) @ x))

    cheap = [
        coordinates.is_cheap(log_density, normal.standard(dim))
        for log_density in (many, costly)
        for dim in (modes.DENSE, modes.DENSE + 1, coordinates.HESSIANS, coordinates.HESSIANS + 1)
    ]
    assert cheap == [True, True, True, False, True, False, False, False]


@pytest.mark.slow
def test_two_modes_of_which_the_smaller_is_narrower():
    found = search.search(jax.random.key(0), two_modes, WIDE)
    assert found.finding == "2 modes"
    assert (found.neck, found.fitted, found.several_modes) == (None, True, True)
    np.testing.assert_allclose(found.modes.points, [LEFT, RIGHT], atol=1e-3)
    assert found.ess > 0.8
    x, ratio = drawn(two_modes, found)
    requires_z(ratio)
    smaller = ratio * (x[:, 0] > 1.5)
    # The rest of the larger one lies beyond 4.5 standard deviations.
    assert abs(smaller.mean() - 0.25) < 6 * smaller.std() / np.sqrt(COUNT)
    assert np.mean(x[:, 0] > 1.5) > 0.1
    assert missed(two_modes, found, both_modes()).tolist() == [0, 0]


@pytest.mark.slow
def test_known_modes_are_covered_and_points_that_are_missed():
    # The start does not reach the mode to the right.
    start = Normal(jnp.asarray(LEFT, jnp.float32), jnp.array(0.5))
    found = search.search(jax.random.key(0), two_modes, start)
    assert (len(found.modes.points), found.several_modes) == (1, False)
    left = missed(two_modes, found, both_modes(), LOG_Z + np.log(0.75))
    np.testing.assert_allclose(left, [0, 0.25], atol=1e-3)
    assert remedies.extend(jax.random.key(1), two_modes, found, jnp.zeros((9, 3))) is found

    points = RIGHT + 0.3 * np.random.default_rng(0).normal(size=(50, 3))
    extended = remedies.extend(jax.random.key(1), two_modes, found, points)
    assert extended.finding == f"{found.finding}, and a component around tempered particles"
    assert extended.evaluations > found.evaluations
    assert extended.ess > 0.5

    known = both_modes()
    told = search.search(jax.random.key(0), two_modes, start, known=known._replace(evaluations=7))
    assert (len(told.modes.points), told.several_modes) == (2, True)
    for better in (extended, told):
        assert missed(two_modes, better, known).tolist() == [0, 0]
        requires_z(drawn(two_modes, better)[1])


@pytest.mark.slow
def test_a_weaker_neck_among_the_other_coordinates_is_straightened():
    # One neck is known, and the other coordinates hold another: given the first they are not normal.
    def log_density(x):
        necks = norm.logpdf(x[0], 0, 3) + norm.logpdf(x[1], 0, 0.7)
        return necks + norm.logpdf(x[2], 0, jnp.exp(x[0] / 2)) + norm.logpdf(x[3:], 0, jnp.exp(x[1] / 2)).sum() + LOG_Z

    place = normal.standard(6)
    neck, _ = conditional.tabulate(log_density, place, jnp.eye(place.mean.size)[:1])
    prior = mixtures.of_normal(normal.standard(6), mixtures.FREEDOM)
    found = search.search(jax.random.key(0), one_mode, WIDE)._replace(coordinates=place, neck=neck, prior=prior)
    straight = remedies.straighten(jax.random.key(1), log_density, found)
    draw = adaptation.rounds(log_density, conditional.bijection(neck), COUNT)
    before, after = (draw(jax.random.key(2), one.prior) for one in (found, straight))
    assert after.ess > 0.6 > 6 * before.ess
    log_z = estimators.log_z(after.log_weights)
    assert abs(float(log_z.value) - LOG_Z) < 4 * float(log_z.standard_error)
    assert remedies.straighten(jax.random.key(1), log_density, found._replace(neck=None)).prior is prior


@pytest.mark.slow
def test_above_dense_dimensions_few_climbs_are_made_and_particles_explore_where_the_density_is_cheap(monkeypatch):
    dim = modes.DENSE + 1
    start = normal.standard(dim)
    found = search.search(jax.random.key(0), many, start)
    assert found.finding == "one mode, with a normal fit"
    assert (found.neck, found.fitted, found.several_modes) == (None, True, False)
    assert found.modes.counts.tolist() == [modes.FEWEST]
    assert found.modes.evaluations < 10 * dim  # one Hessian, not one for each end
    np.testing.assert_allclose(found.coordinates.mean, np.ones(dim), atol=1e-4)
    np.testing.assert_allclose(found.coordinates.scale, 0.5 * np.eye(dim), atol=1e-4)
    assert found.prior.means.shape == (1, dim)
    assert found.ess > 0.999
    exact = LOG_Z + dim / 2 * np.log(np.pi / 2)
    assert float(found.modes.log_masses[0]) == pytest.approx(exact, rel=1e-5)
    assert remedies.extend(jax.random.key(1), many, found, jnp.zeros((20, dim))) is found
    assert exploration.explore(jax.random.key(1), many, start).settled
    monkeypatch.setattr(coordinates, "EFFORT", 0)
    explored = exploration.explore(jax.random.key(1), many, start)
    assert (explored.points.shape, explored.settled) == ((0, dim), None)
    assert explored.modes.counts.tolist() == [modes.FEWEST]
    assert explored.evaluations == explored.modes.evaluations
    assert remedies.temper(jax.random.key(1), many, start, found) is found


@pytest.mark.slow
def test_above_dense_dimensions_two_modes_are_found():
    dim = modes.DENSE + 1
    means = jnp.outer(jnp.array([-6.0, 6.0]), jnp.eye(dim)[0])
    two = targets.gaussian_mixture(means, jnp.ones(2), jnp.array([3.0, 1.0]))
    found = search.search(jax.random.key(0), two.log_density, Normal(jnp.zeros(dim), jnp.array(3.0)))
    assert (found.several_modes, found.finding) == (True, "2 modes")
    assert found.ess > 0.9
    np.testing.assert_allclose(np.sort(np.exp(found.prior.log_shares)), [0.25, 0.75], atol=1e-3)


@pytest.mark.slow
def test_a_density_without_a_mode(monkeypatch):
    # It has no integral either, so tempering ends only with its stages.
    monkeypatch.setattr(smc, "temper", partial(smc.temper, max_stages=5))
    found = search.search(jax.random.key(0), slope, normal.standard(1))
    assert found.modes.points.shape == (0, 1)
    assert (found.neck, found.several_modes) == (None, False)
    assert found.ess < 0.1
    assert all(np.isfinite(leaf).all() for leaf in (*found.coordinates, *found.prior[:3]))


@pytest.mark.slow
def test_modes_too_many_to_list_are_a_product():
    target = targets.many_well()
    assert target.log_z is not None
    assert target.start is not None
    found = search.search(jax.random.key(0), target.log_density, target.start)
    assert found.finding.endswith("too many to list")
    assert found.ess == 0
    product = remedies.temper(jax.random.key(1), target.log_density, target.start, found)
    assert product.ess > 0.4
    assert product.evaluations > found.evaluations
    x, ratio = drawn(target.log_density, product)
    ratio = ratio * np.exp(LOG_Z - target.log_z)
    requires_z(ratio)
    weights = ratio / ratio.sum()
    # The share of the right-hand well, by quadrature.
    errors = np.sqrt(np.sum(weights**2) * 0.8443 * 0.1557)
    assert np.all(np.abs(weights @ (x[:, ::2] > 0) - 0.84431) < 6 * errors)


@pytest.mark.slow
def test_modes_of_mixed_coordinates_are_a_product_of_independent_components():
    # Two modes in each of 24 coordinates, behind a triangular matrix of determinant one: 16 million modes.
    mix = jnp.eye(24) + 0.3 * jnp.tril(jax.random.normal(jax.random.key(3), (24, 24)), -1)

    def log_density(x):
        y = mix @ x
        left, right = norm.logpdf(y, -2.0, 0.5) + jnp.log(0.3), norm.logpdf(y, 1.5, 0.7) + jnp.log(0.7)
        return jnp.sum(jnp.logaddexp(left, right)) + LOG_Z

    start = Normal(jnp.zeros(24), jnp.array(3.0))
    found = search.search(jax.random.key(0), log_density, start)
    assert found.ess < 0.01
    product = remedies.temper(jax.random.key(1), log_density, start, found)
    assert product.finding.endswith("a mixture for each independent component")
    assert product.ess > 0.2
    requires_z(drawn(log_density, product)[1])


@pytest.mark.slow
def test_a_plain_fit_is_relied_on_after_a_second_opinion(monkeypatch):
    def kinked(x):
        return -jnp.sum(jnp.abs(x))

    sizes, plain = [], search._suffices
    for second in (True, False):

        def suffices(log_weights, precision, second=second):
            sizes.append(log_weights.size)
            return second or log_weights.size == search.DRAWS

        monkeypatch.setattr(search, "_suffices", suffices)
        found = search.search(jax.random.key(0), kinked, Normal(jnp.zeros(8), jnp.array(2.0)))
        assert (len(found.prior.means) == 1) == second
        assert sizes == [search.DRAWS, 4 * search.DRAWS]
        sizes.clear()
    heavy = -1.2 * np.log(np.random.default_rng(0).random(4096)).astype(np.float32)
    assert not plain(jnp.asarray(heavy), 1.0)
    assert plain(jnp.zeros(4096), 1e-3)


@pytest.mark.slow
def test_explore_settles_for_a_normal_target():
    explored = exploration.explore(jax.random.key(1), one_mode, WIDE)
    assert explored.settled is True
    assert explored.points.shape == (exploration.EXPLORERS, 3)
    assert np.all(np.abs(np.mean(explored.points, axis=0) - MEAN) < 6 * DEVIATIONS / np.sqrt(exploration.EXPLORERS))
    np.testing.assert_allclose(explored.modes.points, MEAN[None], atol=1e-3)
    assert explored.evaluations > explored.modes.evaluations


def test_uncovered_is_the_share_of_modes_on_either_side():
    known = both_modes()
    place = {"left": (LEFT, 1.0, 0.75), "right": (RIGHT, 0.3, 0.25)}
    for name, exact in {"left": [0, 0.25], "right": [0.75, 0]}.items():
        mean, scale, share = place[name]
        one = Normal(jnp.asarray(mean, jnp.float32), jnp.array(scale))

        def weigh(points, one=one):
            return jax.vmap(lambda x: two_modes(x) - normal.log_density(one, x))(points)

        np.testing.assert_allclose(
            exploration.uncovered(two_modes, weigh, LOG_Z + np.log(share), known).shares, exact, atol=1e-3
        )


@pytest.mark.slow
def test_modes_with_heavy_tails_are_as_large_as_the_one_that_is_covered():
    # In 50 dimensions Laplace's approximation sees e^-16 of each of them: what a normal fit sees is far more.
    target = targets.student_mixture(50, modes=3)
    start = choices.starting_point(target)
    found = modes.search(jax.random.key(0), target.log_density, start, starts=256)
    assert len(found.points) == 3
    assert np.all(np.asarray(found.log_masses) < -15)

    def weigh(points):
        alone = -1.5 * jnp.sum(jnp.log(2 + (points - found.points[:1]) ** 2), axis=1)
        return jax.vmap(target.log_density)(points) - alone

    shares = exploration.uncovered(target.log_density, weigh, -np.log(3.0), found).shares
    np.testing.assert_allclose(shares, [0, 1 / 3, 1 / 3], atol=0.01)


def test_modes_are_not_taken_to_be_larger_than_heavy_tails_make_them():
    known = both_modes()._replace(log_masses=jnp.array([LOG_Z - 30, LOG_Z - 20]))

    def weigh(points):
        return LOG_Z + jnp.where(points[:, 0] < 0, 0.0, 10.0)

    shares = exploration.uncovered(two_modes, weigh, LOG_Z, known).shares
    np.testing.assert_allclose(shares, [0, np.exp(-20 + 3 * exploration.UNDERRATED)], rtol=1e-3)


@pytest.mark.slow
def test_modes_with_independent_tails():
    # Twelve dimensions, tails of three degrees of freedom, which no component has: unequal modes and scales.
    locations = jax.random.uniform(jax.random.key(5), (3, 12), minval=-10, maxval=10)
    widths, shares = jnp.array([1.0, 0.8, 1.2])[:, None], jnp.log(jnp.array([0.5, 0.2, 0.3]))

    def log_density(x):
        z = (x[None] - locations) / widths
        return jax.nn.logsumexp(shares + jnp.sum(jax.scipy.stats.t.logpdf(z, 3.0) - jnp.log(widths), axis=1)) + LOG_Z

    found = search.search(jax.random.key(0), log_density, Normal(jnp.zeros(12), jnp.array(10.0)))
    assert found.finding == "3 modes, with tails of each coordinate's own"
    assert found.ess > 0.5
    drawn = adaptation.rounds(log_density, found.coordinates, 10_000)(jax.random.key(1), found.prior)
    estimate = estimators.log_z(drawn.log_weights)
    assert abs(float(estimate.value) - LOG_Z) < 5 * float(estimate.standard_error) < 0.1


@pytest.mark.slow
def test_a_search_keeps_modes_with_heavy_tails():
    target = targets.student_mixture(50, modes=3)
    found = search.search(jax.random.key(0), target.log_density, choices.starting_point(target))
    assert found.finding.startswith("3 modes")
    assert np.all(np.exp(np.asarray(found.prior.log_shares)) > 0.1)


def test_a_mode_is_missed_where_weights_are_far_above_z():
    known = both_modes()
    for excess, missing in {-np.inf: False, 0.0: False, 4.9: False, 5.1: True, np.inf: True, np.nan: True}.items():

        def weigh(points, excess=excess):
            return jnp.full(len(points), LOG_Z + excess)

        shares = exploration.uncovered(two_modes, weigh, LOG_Z, known).shares
        # Both modes are missed or none: what the sampler knows of is then the half of all.
        np.testing.assert_allclose(shares, [0.375, 0.125] if missing else [0, 0], rtol=1e-3)
    none = known._replace(points=jnp.zeros((0, 3)))
    assert exploration.uncovered(two_modes, lambda points: points[:, 0], LOG_Z, none).shares.shape == (0,)


def test_the_noise_of_paths_is_no_missed_mode():
    # One path in four has a quarter of the weight that counts, Z or e^10 Z; the others are e^30 above it.
    known = both_modes()
    for excess, exact in {0.0: [0, 0], 10.0: [0.375, 0.125]}.items():

        def weigh(points, excess=excess):
            low = jax.random.bernoulli(jax.random.key(0), 0.25, (len(points),))
            return LOG_Z + excess + jnp.where(low, np.log(0.25), 30.0)

        one = exploration.uncovered(two_modes, weigh, LOG_Z, known).shares
        np.testing.assert_allclose(one, [0.375, 0.125], rtol=1e-3)
        several = exploration.uncovered(two_modes, weigh, LOG_Z, known, paths=exploration.PATHS)
        np.testing.assert_allclose(several.shares, exact, rtol=1e-3)
        draws = exploration.AROUND * len(known.points)
        assert (several.evaluations, several.weighed) == (draws, draws * (1 + exploration.PATHS))


def test_a_draw_counts_at_most_as_much_as_laplace_says():
    # Two draws of sixteen around the mode on the left reach a part with far more mass, which the sampler covers.
    known = both_modes()

    def is_beyond(x):
        return x[..., 0] - LEFT[0] > 1.0

    def density(x):
        return two_modes(x) + jnp.where(is_beyond(x), 20.0, 0.0)

    def weigh(points):
        return LOG_Z + jnp.where(is_beyond(points), 0.0, 10.0)

    assert exploration.uncovered(density, weigh, LOG_Z, known).shares[0] > 0.3


def test_a_ridge_is_weighed_by_its_draws_not_by_its_curvature():
    # The curvature along the last coordinate is that of a deviation of 1000, but the density soon falls off.
    known = both_modes()
    long = known._replace(scales=known.scales.at[0, 2].mul(1000.0), log_masses=known.log_masses.at[0].add(np.log(1e3)))
    wide = Normal(jnp.asarray(LEFT, jnp.float32), jnp.array([1.0, 1.0, 1000.0]))

    def ridge(x, end, beyond):
        inside = normal.log_density(wide, x) + long.log_masses[0]
        return jnp.where(jnp.abs(x[2] - LEFT[2]) > end, inside + beyond, inside)

    def never(points):
        return jnp.full(len(points), jnp.inf)

    drops = exploration.uncovered(partial(ridge, end=1.0, beyond=-20.0), never, LOG_Z, long).shares
    assert drops[0] < 1e-3
    # Where most draws have no density, they say nothing of the sampler.
    nothing = exploration.uncovered(partial(ridge, end=200.0, beyond=jnp.nan), never, LOG_Z, long).shares
    assert nothing[0] == 0

    def off_the_ridge(points):
        return LOG_Z + jnp.where(jnp.abs(points[:, 2] - LEFT[2]) > 200.0, 10.0, 0.0)

    for beyond, missing in {-20.0: False, 0.0: True}.items():  # ten draws of sixteen are farther than 200
        shares = exploration.uncovered(partial(ridge, end=200.0, beyond=beyond), off_the_ridge, LOG_Z, long).shares
        assert bool(shares[0] > 0.5) is missing


@pytest.mark.slow
def test_in_very_many_dimensions_no_matrix_is_made(monkeypatch):
    monkeypatch.setattr(modes, "LARGE", 10)
    scales = jnp.linspace(1.0, 5.0, 12)

    def log_density(x):
        return -0.5 * jnp.sum(((x - 1) / scales) ** 2)

    found = search.search(jax.random.key(0), log_density, normal.standard(12))
    np.testing.assert_allclose(found.coordinates.scale, scales, rtol=1e-3)
    assert found.ess == 0
    assert len(found.modes.points) == 0
    result = sampling.sample(jax.random.key(1), log_density, 12, paths=2000)
    truth = 6 * np.log(2 * np.pi) + float(jnp.sum(jnp.log(scales)))
    assert abs(float(result.log_z.value) - truth) < 5 * float(result.log_z.standard_error) + 1e-3
    assert result.report.missed_modes is None
    assert result.verdict.startswith("Trust")
    with pytest.raises(ValueError, match="at most 10"):
        modes.search(jax.random.key(2), log_density, normal.standard(12))


def test_a_diagonal_fit_keeps_the_scale_of_the_start_where_there_is_no_curvature():
    fit = coordinates.diagonal(jax.random.key(0), lambda x: -0.5 * x[0] ** 2, Normal(jnp.ones(2), jnp.array(3.0)))
    np.testing.assert_allclose(fit.scale, [1.0, 3.0], rtol=1e-5)
    with pytest.raises(ValueError, match="probes must be at least 1"):
        coordinates.diagonal(jax.random.key(0), lambda x: -x @ x, Normal(jnp.ones(2), jnp.array(3.0)), probes=0)
