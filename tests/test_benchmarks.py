"""Targets of published benchmarks: Student-t mixtures, the phi^4 chain, particles that interact, models of digits."""

import math
from functools import cache
from importlib import resources
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate
import scipy.optimize
import scipy.special
import scipy.stats

from dds.targets import double_well_particles, lennard_jones, nice_digits, phi_four, student_mixture, vae_digits

TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def values(target, x):
    return np.asarray(jax.jit(jax.vmap(target.log_density))(x))


def gradients(target, x):
    return np.asarray(jax.jit(jax.vmap(jax.grad(target.log_density)))(x))


def draws(target, count):
    return np.asarray(jax.jit(jax.vmap(target.sample))(jax.random.split(jax.random.key(0), count)), dtype=np.float64)


def assert_mean(draws, exact):
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert np.max(np.abs(draws.mean(axis=0) - exact) / error) < 5


# A mixture of products of Student-t distributions.


def locations(dim, modes):
    return np.random.RandomState(0).uniform(-10, 10, (modes, dim))


@pytest.mark.parametrize(("dim", "modes"), [(1, 1), (2, 3), (50, 10)])
def test_student_mixture_density_is_that_of_scipy(precision, dim, modes):
    x = locations(dim, modes)[[0]] + np.random.default_rng(0).standard_t(2, size=(20, dim))
    ours = values(student_mixture(dim, modes), x.astype(precision))
    components = scipy.stats.t.logpdf(x[:, None], 2, locations(dim, modes)).sum(axis=2)
    assert ours.dtype == precision
    np.testing.assert_allclose(
        ours, scipy.special.logsumexp(components, axis=1) - np.log(modes), rtol=TOLERANCE[precision]
    )


@pytest.mark.parametrize("dim", [1, 2])
def test_student_mixture_is_normalised(float64, dim):
    u = np.linspace(-11, 11, 550)
    axes = np.meshgrid(*[u] * dim)
    x = 3 * np.sinh(np.stack([axis.ravel() for axis in axes], axis=1))
    jacobian = np.prod(np.sqrt(9 + x**2), axis=1)
    total = np.sum(np.exp(values(student_mixture(dim, 3), x)) * jacobian) * (u[1] - u[0]) ** dim
    assert student_mixture(dim, 3).log_z == 0
    assert total == pytest.approx(1, abs=1e-8)


def test_student_mixture_sampler_follows_the_density():
    x = draws(student_mixture(50), 10_000)
    means = locations(50, 10)
    for i in (0, 49):
        levels = scipy.stats.t.cdf(x[:, i, None], 2, means[:, i]).mean(axis=1)
        assert scipy.stats.kstest(levels, "uniform").pvalue > 1e-6
    mode = np.argmax(scipy.stats.t.logpdf(x[:, None], 2, means).sum(axis=2), axis=1)
    assert scipy.stats.chisquare(np.bincount(mode, minlength=10)).pvalue > 1e-6
    # Given the mode, the coordinates are independent, and so are their sizes: it is no multivariate Student-t.
    away = (x - means[mode])[:, :5]
    assert scipy.stats.kstest(away.ravel(), scipy.stats.t(2).cdf).pvalue > 1e-6
    for of in (away, np.abs(away)):
        assert np.abs(scipy.stats.spearmanr(of).statistic - np.eye(5)).max() < 6 / np.sqrt(len(x))


# The phi^4 chain.


def action(fields, coupling, beta, field, periodic):
    sites = fields.shape[-1]
    ends = fields[..., :1] if periodic else np.zeros_like(fields[..., :1])
    around = np.concatenate([ends[..., :0] if periodic else ends, fields, ends], axis=-1)
    bonds = coupling * sites * np.sum(np.diff(around, axis=-1) ** 2, axis=-1) / 2
    local = np.sum((1 - fields**2) ** 2 / 4 + field * fields, axis=-1) / (coupling * sites)
    return beta * (bonds + local)


CHAINS = [(0.5, 4.0, 0.0, True), (0.5, 4.0, 0.05, True), (0.4, 6.0, -0.1, False)]


@pytest.mark.parametrize("chain", CHAINS)
def test_phi_four_density_is_its_formula(precision, chain):
    coupling, beta, field, periodic = chain
    target = phi_four(6, coupling=coupling, beta=beta, field=field, periodic=periodic)
    x = np.random.default_rng(0).normal(size=(20, 6))
    ours = values(target, x.astype(precision))
    assert ours.dtype == precision
    np.testing.assert_allclose(ours, -action(x, *chain), rtol=TOLERANCE[precision])


def test_phi_four_log_z_of_two_sites_is_that_of_adaptive_quadrature():
    # Two bonds between the same sites; the coupling times their number is 1.
    def well(x):
        return (1 - x**2) ** 2 / 4 + 0.05 * x

    def density(y, x):
        return math.exp(-4 * ((x - y) ** 2 + well(x) + well(y)))

    total = scipy.integrate.dblquad(density, -4, 4, -4, 4, epsabs=0, epsrel=1e-9)[0]
    assert phi_four(2, coupling=0.5, beta=4, field=0.05).log_z == pytest.approx(np.log(total), abs=1e-9)


@pytest.mark.parametrize("chain", CHAINS)
def test_phi_four_of_three_sites_is_a_sum_over_a_grid(chain):
    coupling, beta, field, periodic = chain
    target = phi_four(3, coupling=coupling, beta=beta, field=field, periodic=periodic)
    axis = np.linspace(-3.5, 3.5, 141)
    step = axis[1] - axis[0]
    table = np.exp(-action(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1), *chain))
    assert target.log_z == pytest.approx(np.log(table.sum() * step**3), abs=1e-10)
    x = draws(target, 5_000)
    a, b, c = axis[:, None, None], axis[:, None], axis
    exact = [np.sum(table * f) / table.sum() for f in (a, b, c, a**2, b**2, c**2, a * b, b * c, a * c, a * b * c**2)]
    a, b, c = x.T
    assert_mean(np.stack([a, b, c, a**2, b**2, c**2, a * b, b * c, a * c, a * b * c**2], axis=1), exact)
    for i in range(3):
        density = scipy.interpolate.CubicSpline(axis, table.sum(axis=tuple({0, 1, 2} - {i})))
        below = density.antiderivative()
        assert scipy.stats.kstest(x[:, i], lambda t, f=below: f(t) / f(axis[-1])).pvalue > 1e-6


GAUSS = cache(np.polynomial.legendre.leggauss)


def transfer(sites, coupling, beta, field=0.0, reach=4):
    """The transfer matrix of the rule of Gauss and Legendre, with its points and the weights of a last bond to zero."""
    points, weights = (reach * numbers for numbers in GAUSS(300))
    half = beta * ((1 - points**2) ** 2 / 4 + field * points) / (2 * coupling * sites)
    factors = np.sqrt(weights) * np.exp(-half)
    bonds = np.exp(-beta * coupling * sites * np.subtract.outer(points, points) ** 2 / 2)
    return points, bonds * np.outer(factors, factors), factors * np.exp(-beta * coupling * sites * points**2 / 2)


def test_phi_four_of_many_sites_is_the_trace_of_a_power():
    target = phi_four()
    points, matrix, _ = transfer(16, 0.1, 10.0)
    powers = {1: matrix, 8: np.linalg.matrix_power(matrix, 8)}
    powers |= {15: powers[8] @ np.linalg.matrix_power(matrix, 7), 16: powers[8] @ powers[8]}
    total = np.trace(powers[16])
    assert target.log_z == pytest.approx(np.log(total), abs=1e-9)
    assert target.log_z == pytest.approx(-13.3889049553, abs=1e-9)
    near, far = (points @ (powers[i] * powers[16 - i]) @ points for i in (1, 8))
    x = draws(target, 16_000)
    ours = [np.mean(x > 0, axis=1), np.mean(x**2, axis=1), np.mean((x - np.roll(x, 1, axis=1)) ** 2, axis=1)]
    ours += [np.mean(x * np.roll(x, i, axis=1), axis=1) for i in (1, 8)]
    square = np.sum(points**2 * np.diag(powers[16])) / total
    exact = [0.5, square, 2 * (square - near / total), near / total, far / total]
    assert_mean(np.stack(ours, axis=1), exact)


def test_phi_four_of_a_hundred_sites_between_zeros():
    _, matrix, last = transfer(100, 0.1, 20.0)
    log_z = phi_four(100, beta=20, periodic=False).log_z
    assert log_z == pytest.approx(np.log(last @ np.linalg.matrix_power(matrix, 99) @ last), abs=1e-9)
    assert log_z == pytest.approx(-196.9122208055, abs=1e-9)


@pytest.mark.parametrize(
    ("coupling", "beta", "field", "reach"), [(0.03, 20, 0.38, 2), (2.0, 20, -0.38, 2.5), (0.1, 0.1, 0.3, 8)]
)
def test_phi_four_log_z_of_other_chains(coupling, beta, field, reach):
    _, matrix, last = transfer(3, coupling, beta, field, reach)
    # Scaled, for some are too large to be multiplied, and without what is too small to be multiplied fast.
    scale, last_scale = matrix.max(), last.max()
    matrix, last = np.where(matrix > 1e-50 * scale, matrix / scale, 0), last / last_scale
    ring, ends = (phi_four(3, coupling=coupling, beta=beta, field=field, periodic=p).log_z for p in (True, False))
    assert ring == pytest.approx(np.log(np.trace(matrix @ matrix @ matrix)) + 3 * np.log(scale), abs=1e-9)
    assert ends == pytest.approx(np.log(last @ matrix @ matrix @ last) + 2 * np.log(scale * last_scale), abs=1e-9)


@pytest.mark.parametrize(
    "make", [student_mixture, phi_four, lambda: phi_four(5, field=np.float64(0.1), periodic=False)]
)
def test_samples_have_the_precision(precision, make):
    target = make()
    x = jax.jit(target.sample)(jax.random.key(0))
    assert x.shape == (target.dim,)
    assert x.dtype == precision
    assert np.isfinite(target.log_density(x))
    assert target.log_density(x.astype("float32")).dtype == "float32"


# Particles.


def basis(target):
    """The positions for each unit vector: shape (dim, count, space)."""
    return np.asarray(jax.vmap(target.structure)(jnp.eye(target.dim)), dtype=np.float64)


def double_well_energy(positions):
    distances = np.array([np.linalg.norm(a - b) for a, b in combinations(positions, 2)])
    return np.sum(0.9 * (distances - 4) ** 4 - 4 * (distances - 4) ** 2)


def lennard_jones_energy(positions, depth=1.0):
    distances = np.array([np.linalg.norm(a - b) for a, b in combinations(positions, 2)])
    trap = 0.5 * np.sum((positions - positions.mean(axis=0)) ** 2)
    return depth * np.sum(distances**-12.0 - 2 * distances**-6.0) + trap


def double_depth(positions):
    return lennard_jones_energy(positions, 2.0)


PARTICLES: dict[str, tuple] = {
    "two in wells": (lambda: double_well_particles(2), 2, double_well_energy, 3.0),
    "four in wells": (double_well_particles, 2, double_well_energy, 3.0),
    "thirteen": (lennard_jones, 3, lennard_jones_energy, 1.5),
    "five, deep": (lambda: lennard_jones(5, depth=2), 3, double_depth, 1.5),
}


@pytest.mark.parametrize("name", PARTICLES)
def test_density_of_particles_is_its_formula(precision, name):
    make, space, energy, scale = PARTICLES[name]
    target = make()
    x = scale * np.random.default_rng(0).normal(size=(20, target.dim))
    ours = values(target, x.astype(precision))
    positions = np.tensordot(x, basis(target), 1)
    assert positions.shape[1:] == (target.dim // space + 1, space)
    assert ours.dtype == precision
    exact = [-energy(points) for points in positions]
    np.testing.assert_allclose(ours, exact, rtol=20 * TOLERANCE[precision] if precision == "float32" else 1e-6)


@pytest.mark.parametrize("name", PARTICLES)
def test_coordinates_of_particles_are_orthonormal(float64, name):
    make, space, _, _ = PARTICLES[name]
    target = make()
    rows = basis(target)
    np.testing.assert_allclose(rows.sum(axis=1), 0, atol=1e-14)
    flat = rows.reshape(target.dim, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(target.dim), atol=1e-14)
    x = np.random.default_rng(0).normal(size=target.dim)
    positions = np.asarray(target.structure(x))
    np.testing.assert_allclose(x[:space], (positions[0] - positions[1]) / np.sqrt(2), atol=1e-14)


@pytest.mark.parametrize("name", PARTICLES)
def test_density_of_particles_has_its_symmetries(float64, name):
    make, space, _, scale = PARTICLES[name]
    target = make()
    rows = basis(target)
    rng = np.random.default_rng(1)
    x = scale * rng.normal(size=(10, target.dim))
    positions = np.tensordot(x, rows, 1)
    rotation = scipy.stats.special_ortho_group.rvs(space, random_state=0)
    reflection = np.diag([-1.0] + [1.0] * (space - 1))
    moved = [
        positions,
        positions @ rotation,
        positions @ reflection,
        positions[:, rng.permutation(positions.shape[1])],
        positions + rng.normal(size=space),
    ]
    x = np.tensordot(np.concatenate(moved), rows, ((1, 2), (1, 2)))
    sizes = np.linalg.norm(gradients(target, x), axis=1)
    for numbers in (values(target, x), sizes):
        first, *others = np.split(numbers, len(moved))
        for same in others:
            np.testing.assert_allclose(same, first, rtol=1e-8)


@pytest.mark.parametrize("make", [double_well_particles, lennard_jones])
def test_density_of_particles_is_never_nan(precision, make):
    target = make()
    rows = basis(target)
    positions = np.random.default_rng(0).normal(size=rows.shape[1:])
    close = [positions]
    for distance in (1.0, 0.1, 1e-2, 1e-3, 1e-6, 1e-20, 0.0):
        pair = positions.copy()
        pair[1] = pair[0]
        pair[1, 0] += distance
        close.append(pair)
    x = np.tensordot(np.array(close), rows, ((1, 2), (1, 2)))
    x = np.concatenate([x, np.zeros((1, target.dim)), 1e4 * x[:1]]).astype(precision)
    assert np.all(np.isfinite(values(target, x)))
    assert np.all(np.isfinite(gradients(target, x)))
    huge = np.finfo(precision).max ** 0.6 * x[:1]
    assert values(target, huge) == -np.inf


def test_log_z_of_double_well_particles_is_that_of_sums_over_a_grid():
    # The first particle in the origin, the second on an axis, the others in the plane: a sum over the fourth is a
    # convolution. In orthonormal coordinates volumes are smaller by the number of particles.
    def factor(distance):
        return np.exp(4 * (distance - 4) ** 2 - 0.9 * (distance - 4) ** 4)

    step, size = 0.125, 192
    x, y = step * (np.arange(size)[:, None] - 64), step * (np.arange(size) - 96)
    around = step * np.fft.fftfreq(size, 1 / size)
    pairs = np.fft.rfft2(factor(np.hypot(around[:, None], around)))
    totals = np.zeros(3)
    for second in np.arange(step, 8, step):
        plane = factor(np.hypot(x, y)) * factor(np.hypot(x - second, y))
        fourth = np.fft.irfft2(pairs * np.fft.rfft2(plane), s=plane.shape)
        sums = [1, np.sum(plane) * step**2, np.sum(plane * fourth) * step**4]
        totals += 2 * np.pi * second * step * factor(second) * np.array(sums)
    ours = [double_well_particles(count).log_z for count in (2, 3, 4)]
    np.testing.assert_allclose(ours, np.log(totals / [2, 3, 4]), atol=2e-9)
    assert double_well_particles(5).log_z is None


def test_log_z_of_two_particles_is_that_of_their_density(float64):
    target = double_well_particles(2)
    radii = np.linspace(0, 10, 2001)
    density = np.exp(values(target, np.stack([radii, np.zeros_like(radii)], axis=1)))
    assert target.log_z == pytest.approx(np.log(np.trapezoid(2 * np.pi * radii * density, radii)), abs=1e-8)


def test_lennard_jones_has_the_known_ground_state(float64):
    # An icosahedron about its centre; the energy stands in the tables of clusters.
    golden = (1 + np.sqrt(5)) / 2
    corners = [np.roll([0, a, b * golden], i) for i in range(3) for a in (-1, 1) for b in (-1, 1)]
    shape = np.array([[0, 0, 0], *corners]) / np.sqrt(1 + golden**2)
    target = lennard_jones(13)
    direction = np.tensordot(shape, basis(target), ((0, 1), (1, 2)))
    energy = jax.jit(lambda r: -target.log_density(r * direction) - 0.5 * jnp.sum((r * direction) ** 2))
    best = scipy.optimize.minimize_scalar(energy, bounds=(0.8, 1.2), options={"xatol": 1e-9}, method="bounded")
    assert best.fun == pytest.approx(-44.326801, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: student_mixture(0), "dim must be at least 1, got 0"),
        (lambda: student_mixture(2, 0), "modes must be at least 1, got 0"),
        (lambda: phi_four(1), "sites must be at least 2, got 1"),
        (lambda: phi_four(coupling=0), "coupling must be positive and finite, got 0"),
        (lambda: phi_four(beta=-1), "beta must be positive and finite, got -1"),
        (lambda: phi_four(beta=float("nan")), "beta must be positive and finite, got nan"),
        (lambda: phi_four(field=0.4), "field must be of a size below 0.385, for two wells, got 0.4"),
        (lambda: phi_four(coupling=1000), "coupling must be nearer to 0.0625, or beta smaller, .* got 1000"),
        (lambda: double_well_particles(1), "count must be at least 2, got 1"),
        (lambda: lennard_jones(1), "count must be at least 2, got 1"),
        (lambda: lennard_jones(depth=0), "depth must be positive and finite, got 0"),
        (lambda: phi_four().log_density(jnp.zeros(3)), r"the shape of x must be \(16,\)"),
        (lambda: lennard_jones().log_density(jnp.zeros(39)), r"the shape of x must be \(36,\)"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Models of digits.


def arrays(name):
    with np.load(resources.files("dds.targets") / "data" / f"{name}.npz") as archive:
        return {key: np.asarray(value, np.float64) for key, value in archive.items()}


def perceptron(p, x, row=()):
    for layer in range(3):
        x = x * scipy.special.expit(x) if layer else x
        x = x @ p[f"weights_{layer}"][row] + p[f"bias_{layer}"][row]
    return x


def to_logistic(flow, x):
    """The images as independent numbers, each standard logistic."""
    a, b = x[..., ::2], x[..., 1::2]
    b = b + perceptron(flow, a, 0)
    a = a + perceptron(flow, b, 1)
    b = b + perceptron(flow, a, 2)
    a = a + perceptron(flow, b, 3)
    return np.exp(flow["log_scale"]) * np.concatenate([a, b], axis=-1)


def test_nice_density_is_that_of_numpy_and_normalised(precision):
    flow = arrays("nice_digits")
    x = np.random.default_rng(0).uniform(size=(5, 64))
    # The determinant by differences: central ones, of a smooth function in double precision.
    step = 1e-5 * np.eye(64)
    jacobian = (to_logistic(flow, x[0] + step) - to_logistic(flow, x[0] - step)) / 2e-5
    volume = np.linalg.slogdet(jacobian)[1]
    assert volume == pytest.approx(flow["log_scale"].sum(), abs=1e-5)
    exact = scipy.stats.logistic.logpdf(to_logistic(flow, x)).sum(axis=1) + volume
    np.testing.assert_allclose(
        values(nice_digits(), x.astype(precision)), exact, rtol=10 * TOLERANCE[precision], atol=1e-5
    )


def test_nice_samples_are_those_of_its_density():
    h = to_logistic(arrays("nice_digits"), draws(nice_digits(), 5000))
    least = min(scipy.stats.kstest(column, "logistic").pvalue for column in h.T)
    assert least > 1e-5  # of 64
    assert abs(np.corrcoef(h.T) - np.eye(64)).max() < 6 / np.sqrt(5000)


def code_log_density(decoder, z):
    n, p = decoder["image"], scipy.special.expit(perceptron(decoder, z))
    return scipy.stats.norm.logpdf(z).sum(axis=-1) + scipy.stats.binom.logpmf(n, 16, p).sum(axis=-1)


def test_vae_density_is_that_of_scipy(precision):
    z = np.random.default_rng(0).normal(size=(5, 16))
    exact = code_log_density(arrays("vae_digits"), z)
    np.testing.assert_allclose(values(vae_digits(), z.astype(precision)), exact, rtol=TOLERANCE[precision])


@pytest.mark.slow
def test_vae_log_z_is_that_of_importance_sampling():
    # Climbs from twenty draws of the prior end in one mode: a Student-t distribution there, with its curvature.
    decoder, rng, target = arrays("vae_digits"), np.random.default_rng(0), vae_digits()

    def loss(z):
        return -code_log_density(decoder, z)

    ends = np.array([scipy.optimize.minimize(loss, start).x for start in rng.normal(size=(20, 16))])
    mode = ends[0]
    assert np.abs(ends - mode).max() < 0.01
    step = 1e-3 * np.eye(16)
    corners = mode + (step[:, None] + np.array([[[1]], [[-1]]])[:, None] * step[None])  # plus, minus along the second
    ahead, behind = loss(corners), loss(2 * mode - corners)
    curvature = (ahead[0] - ahead[1] + behind[0] - behind[1]) / 4e-6
    proposal = scipy.stats.multivariate_t(mode, 1.2 * np.linalg.inv((curvature + curvature.T) / 2), df=8, seed=rng)
    z = proposal.rvs(400_000)
    log_w = np.concatenate([code_log_density(decoder, part) for part in np.array_split(z, 20)]) - proposal.logpdf(z)
    log_z = scipy.special.logsumexp(log_w) - np.log(len(z))
    error = np.std(np.exp(log_w - log_z)) / np.sqrt(len(z))
    assert error < 0.004
    assert abs(log_z - target.log_z) < 5 * np.hypot(error, target.log_z_error)
