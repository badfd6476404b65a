"""Paths in both directions: their states, their distributions, and what they are weighed by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from problems import PLACE, SHIFTED, noise_of, normal_target, sampler_of

from dds import families, kernels, losses, mixtures, networks, normal, paths, references, schedules
from dds.types import Kernel, Normal, Sampler, Transitions


def reference_sampler(dim=2):
    fractions = schedules.cosine(6, total=2.0)
    reference = references.ou(fractions, dim)
    kernel = kernels.denoising(fractions, lambda y, k: jnp.zeros_like(y))
    return Sampler(reference.start, reference, kernel, Normal(jnp.array([0.3, -0.5]), jnp.array(1.7)))


def two_way_sampler(dim=2, steps=5):
    """Kernels with a mean and a scale of their own in both directions, which depend on step and state."""
    reference = references.ou(schedules.linear(steps, total=2.0), dim)

    def apply(y, k):
        def distribution(shift):
            return Normal(jnp.sin(y + shift + k), jnp.exp(0.3 * jnp.cos(y - shift * k)))

        return Transitions(distribution(0.3), distribution(-0.8))

    prior = Normal(jnp.linspace(-0.5, 0.5, dim), jnp.linspace(0.7, 1.5, dim))
    coordinates = Normal(jnp.zeros(dim), jnp.eye(dim) + jnp.tri(dim, k=-1))
    return Sampler(prior, reference, Kernel(jnp.arange(steps + 1.0), apply), coordinates)


def assert_standard_normal(columns):
    for column in np.asarray(columns).T:
        assert scipy.stats.kstest(column, "norm").pvalue > 1e-6


def test_noising_path_of_the_reference_has_the_distribution_of_the_process(float64):
    sampler, x = reference_sampler(), jnp.array([3.0, -1.0])
    end = normal.standardise(sampler.coordinates, x)
    noise_path = jax.jit(jax.vmap(lambda key: paths.noise_path(key, sampler, x).states))
    states = noise_path(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(states[:, -1], end[None] + jnp.zeros((20_000, 1)), rtol=1e-12)
    levels = references.noise_levels(sampler.reference.rows)[:-1, None]
    assert_standard_normal((states[:, :-1, 0] - (jnp.sqrt(1 - levels) * end[0]).T) / jnp.sqrt(levels).T)


def test_steps_ahead_and_back_have_the_distribution_of_the_kernel(float64):
    # The last step back starts at the given point; the first ahead at the prior's draw.
    sampler, x = two_way_sampler(), jnp.array([0.4, -1.1])
    kernel, b = sampler.kernel, sampler.reference.rows

    def at(y, k):
        return kernel.apply(y, kernel.rows[k])

    @jax.jit
    @jax.vmap
    def noises(key):
        ahead, back = paths.sample_path(key, sampler).states, paths.noise_path(key, sampler, x).states
        forward, backward = at(ahead[0], 0).forward, at(back[-1], -1).backward
        zeta = (ahead[1] - jnp.sqrt(1 - b[0]) * ahead[0]) / jnp.sqrt(b[0])
        eta = (back[-2] - jnp.sqrt(1 - b[-1]) * back[-1]) / jnp.sqrt(b[-1])
        start = normal.standardise(sampler.prior, ahead[0])
        return start, normal.standardise(forward, zeta), normal.standardise(backward, eta)

    for came in noises(jax.random.split(jax.random.key(0), 20_000)):
        assert_standard_normal(came)


def test_a_step_is_weighed_by_the_transitions_at_its_two_states(float64):
    sampler = two_way_sampler()
    path = paths.sample_path(jax.random.key(3), sampler)
    standard = normal.standard(2)
    for k, b in enumerate(sampler.reference.rows):
        before, after = path.states[k], path.states[k + 1]
        ahead = sampler.kernel.apply(before, sampler.kernel.rows[k]).forward
        back = sampler.kernel.apply(after, sampler.kernel.rows[k + 1]).backward
        zeta, eta = ((to - jnp.sqrt(1 - b) * of) / jnp.sqrt(b) for of, to in ((before, after), (after, before)))
        for came, distribution, noise in ((path.log_forward, ahead, zeta), (path.log_backward, back, eta)):
            expected = normal.log_density(distribution, noise) - normal.log_density(standard, noise)
            assert came[k] == pytest.approx(float(expected), rel=1e-9, abs=1e-12)
    assert path.log_prior == pytest.approx(float(normal.log_density(sampler.prior, path.states[0])), rel=1e-9)
    start, end = normal.log_density(standard, path.states[0]), normal.log_density(sampler.coordinates, path.x)
    assert path.log_reference == pytest.approx(float(start - end), rel=1e-9)


@pytest.mark.parametrize("name", ["pis", "underdamped", "learned"])
def test_the_end_and_its_density_are_in_the_coordinates_of_the_user(float64, name):
    sampler, x = sampler_of(name), jnp.array([0.7, -2.0])
    own, noised = paths.sample_path(jax.random.key(1), sampler), paths.noise_path(jax.random.key(2), sampler, x)
    np.testing.assert_array_equal(noised.x, x)
    for path in (own, noised):
        np.testing.assert_allclose(path.x, normal.reparameterise(sampler.coordinates, path.states[-1, :2]), rtol=1e-12)
        start = normal.log_density(sampler.reference.start, path.states[0])
        end = normal.log_density(sampler.coordinates, path.x)
        assert path.log_reference == pytest.approx(float(start - end), rel=1e-10)
        points = paths.positions(path.states, sampler)
        assert points.shape == (paths.steps(sampler) + 1, 2)
        np.testing.assert_allclose(points[-1], path.x, rtol=1e-12)


@pytest.mark.parametrize("steps", [0, 4])
def test_the_weight_of_a_path_keeps_precision_far_out(steps):
    # The reference's marginals differ by 5e9 there, of which 32 bits leave out hundreds.
    fractions = jnp.full(steps, 1e-4)
    reference = references.ou(fractions, 2)
    kernel = kernels.denoising(fractions, lambda y, k: jnp.zeros_like(y))
    far = mixtures.of_normal(Normal(jnp.array([1e5, 0.0]), jnp.ones(())), 3.0)
    sampler = Sampler(far, reference, kernel, Normal(jnp.array([2.0, -1.0]), jnp.array(3.0)))
    path = paths.sample_path(jax.random.key(0), sampler)
    y = np.asarray(path.states, np.float64)
    ends = (np.sum(y[-1] ** 2) - np.sum(y[0] ** 2)) / 2 + 2 * np.log(3)
    assert path.log_reference == pytest.approx(ends, rel=1e-6, abs=1e-5)
    assert path.log_prior == pytest.approx(float(mixtures.log_density(far, path.states[0])))
    if not steps:  # a target that is the prior: what the path drew is what the target thinks of it
        pushed = mixtures.push(sampler.coordinates, far)
        weight = losses.log_weight(path, lambda x: mixtures.log_density(pushed, x))
        assert weight == pytest.approx(0.0, abs=0.05)


def test_a_path_is_made_of_public_steps():
    sampler, key = two_way_sampler(), jax.random.key(5)
    path, (start, noise) = paths.sample_path(key, sampler), noise_of(key, sampler)
    visit, rows = paths.first_visit(sampler, start), paths.step_rows(sampler)
    for k in range(5):
        np.testing.assert_allclose(visit.state, path.states[k], rtol=1e-5)
        visit, increment = paths.step(sampler, visit, jax.tree.map(lambda row, k=k: row[k], rows), noise[k])
        np.testing.assert_allclose(increment.log_forward, path.log_forward[k], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(increment.log_backward, path.log_backward[k], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(visit.state, path.states[-1], rtol=1e-5)


def test_rows_and_states_must_fit_the_number_of_steps():
    sampler = two_way_sampler()
    wrong = sampler._replace(kernel=sampler.kernel._replace(rows=jnp.arange(5.0)))
    for call in (
        lambda: paths.sample_path(jax.random.key(0), wrong),
        lambda: paths.noise_path(jax.random.key(0), wrong, jnp.zeros(2)),
        lambda: paths.retrace(jnp.zeros((6, 2)), wrong),
    ):
        with pytest.raises(ValueError, match="leading axis of the kernel's rows must be one more than the number"):
            call()
    for shape in ((5, 2), (6, 3)):
        with pytest.raises(ValueError, match=r"shape of states must be \(6, 2\)"):
            paths.retrace(jnp.zeros(shape), sampler)


@pytest.mark.parametrize("name", ["underdamped", "learned"])
def test_a_path_uses_no_random_key_twice(name):
    sampler = sampler_of(name)
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: paths.sample_path(key, sampler))(jax.random.key(0))
        jax.jit(lambda key: paths.noise_path(key, sampler, jnp.ones(2)))(jax.random.key(0))


def one_path(sampler):
    return jax.jit(lambda key: paths.sample_path(key, sampler))(jax.random.key(3))


@pytest.mark.parametrize("steps", [1, 12])
def test_weight_is_the_papers_girsanov_form_term_by_term(float64, steps):
    fractions = schedules.cosine(steps, total=0.2 * steps)
    coordinates = Normal(jnp.zeros(2), jnp.array(1.3))  # the paper's sigma

    def control(y, k):
        return jnp.tanh(2 * y + k) - 0.5

    reference = references.ou(fractions, 2)
    sampler = Sampler(reference.start, reference, kernels.denoising(fractions, control), coordinates)
    path, noise = one_path(sampler), np.asarray(noise_of(jax.random.key(3), sampler)[1])
    states, b = np.asarray(path.states), np.asarray(fractions)[:, None]
    u = np.asarray(jax.vmap(control)(path.states[:-1], jnp.arange(steps)))
    moved = np.sqrt(1 - b) * states[:-1] + b * u + np.sqrt(b) * noise
    np.testing.assert_allclose(states[1:], moved, rtol=1e-9, atol=1e-12)
    quadratic, martingale = np.sum(b * u**2 / 2, axis=1), np.sum(np.sqrt(b) * u * noise, axis=1)
    np.testing.assert_allclose(path.log_forward, quadratic + martingale, rtol=1e-9, atol=1e-12)
    terminal = float(SHIFTED.log_density(path.x)) - scipy.stats.norm.logpdf(path.x, 0, 1.3).sum()
    weight = losses.log_weight(path, SHIFTED.log_density)
    assert weight == pytest.approx(terminal - quadratic.sum() - martingale.sum(), rel=1e-10)


def test_an_untrained_cmcd_is_annealed_langevin_steps_both_ways(float64):
    b, place = 0.3, jax.tree.map(lambda x: x.astype(float), PLACE)
    family = families.cmcd(networks.mlp(2, jnp.zeros_like, width=8), jnp.full(4, b), SHIFTED.log_density, place)
    path = one_path(family.sampler(family.init(jax.random.key(0))))
    log_gamma = normal.pull_back(place, SHIFTED.log_density)
    y, score = np.asarray(path.states), np.asarray(jax.vmap(jax.grad(log_gamma))(path.states))
    means = np.sqrt(1 - b) * y + b / 2 * np.linspace(0, 1, 5)[:, None] * (y + score)
    expected = float(log_gamma(path.states[-1])) - scipy.stats.norm.logpdf(y[0]).sum()
    expected += scipy.stats.norm.logpdf(y[:-1], means[1:], np.sqrt(b)).sum()
    expected -= scipy.stats.norm.logpdf(y[1:], means[:-1], np.sqrt(b)).sum()
    assert losses.log_weight(path, SHIFTED.log_density) == pytest.approx(expected, rel=1e-9)


def test_the_control_of_cmcd_pushes_ahead_and_is_taken_back(float64):
    # Of both innovations the half sum is the step along the score, the half difference the control.
    b, betas, u, y = 0.3, jnp.array([0.0, 0.4, 1.0]), jnp.array([0.7, -0.2]), jnp.array([1.0, 2.0])
    kernel = kernels.annealed(jnp.full(2, b), betas, lambda y: -(y**3), lambda y, k: (k + 1) * u)
    forward, backward, _ = kernel.apply(y, jax.tree.map(lambda row: row[1], kernel.rows))
    np.testing.assert_allclose((forward.mean + backward.mean) / 2, np.sqrt(b) / 2 * 0.4 * (y - y**3), rtol=1e-12)
    np.testing.assert_allclose((forward.mean - backward.mean) / 2, np.sqrt(b) / 2 * 2 * u, rtol=1e-12)


def test_weight_with_any_prior_and_covariance_is_the_ratio_of_path_densities(float64):
    # A prior and kernels that have nothing to do with the target: the identity holds all the same.
    fractions = schedules.linear(5, total=2.0)
    prior = Normal(jnp.array([0.5, -1.0]), jnp.array([0.7, 2.0]))
    kernel = kernels.gaussian(fractions, *normal_target(2))
    path = one_path(Sampler(prior, references.ou(fractions, 2), kernel, normal.standard(2)))
    y = np.asarray(path.states)
    direct = float(SHIFTED.log_density(path.x)) - scipy.stats.norm.logpdf(y[0], prior.mean, prior.scale).sum()
    forward = jax.vmap(kernel.apply)(path.states, kernel.rows).forward
    for k, b in enumerate(np.asarray(fractions)):
        factor = np.sqrt(b) * np.asarray(forward.scale[k])
        mean = np.sqrt(1 - b) * y[k] + np.sqrt(b) * np.asarray(forward.mean[k])
        direct += scipy.stats.norm.logpdf(y[k], np.sqrt(1 - b) * y[k + 1], np.sqrt(b)).sum()
        direct -= scipy.stats.multivariate_normal(mean, factor @ factor.T).logpdf(y[k + 1])
    assert losses.log_weight(path, SHIFTED.log_density) == pytest.approx(direct, rel=1e-9)
