"""Problems unlike the benchmarks, each with a true log Z that is not of this library: `nox -s problems`.

Normalised densities, closed forms, and quadrature by SciPy in one and two dimensions. They are of the kinds that users
bring: separated modes, necks, heavy tails, hard supports, curved and kinked densities, far and badly scaled ones.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jax.scipy.stats import cauchy, norm, poisson
from scipy import integrate, special, stats
from scipy.special import multigammaln

import dds
from dds import targets
from dds.types import Target


def of(log_density: Callable, dim: int, log_z: float, scale: float = 1.0) -> Target:
    return targets.from_log_density(log_density, dim, scale=scale)._replace(log_z=log_z)


def mixture(means, scales, shares, scale, log_z=0.0) -> Target:
    means, scales = jnp.asarray(means, float), jnp.asarray(scales, float)
    log_shares = jnp.log(jnp.asarray(shares, float) / sum(shares))

    def log_density(x):
        def part(mean, scale):
            return jnp.sum(norm.logpdf(x, mean, scale))

        return jax.nn.logsumexp(log_shares + jax.vmap(part)(means, scales)) + log_z

    return of(log_density, means.shape[1], log_z, scale)


def grid(log_density: Callable, *ranges: tuple[float, float], points: int = 2001) -> float:
    """log of the integral in one or two dimensions, by Simpson's rule in double precision."""
    axes = [np.linspace(*r, points) for r in ranges]
    values = log_density(*np.meshgrid(*axes, indexing="ij"))
    total = np.exp(values - values.max())
    for axis in reversed(axes):
        total = integrate.simpson(total, x=axis, axis=-1)
    return float(np.log(total) + values.max())


def corner(dim, distance):
    return np.full(dim, distance / np.sqrt(dim))


def unequal_modes_10():
    return mixture([corner(10, 0), corner(10, 12)], [np.ones(10), 0.5 * np.ones(10)], [0.9, 0.1], 4.0)


def unequal_modes_20():
    return mixture([corner(20, -6), corner(20, 8)], [np.ones(20), 0.7 * np.ones(20)], [0.95, 0.05], 3.0, 3.0)


def three_modes_5():
    means = [[4, 0, 0, 0, 0], [-3, 3, 0, 0, 0], [0, -5, 2, 0, 1]]
    return mixture(means, [[1, 0.5, 1, 1, 0.3], [0.4] * 5, [1.5, 0.6, 0.5, 1, 1]], [1, 2, 3], 4.0)


def twelve_modes_8():
    rng = np.random.default_rng(3)
    return mixture(rng.uniform(-8, 8, (12, 8)), rng.uniform(0.3, 1, (12, 8)), rng.uniform(0.3, 1, 12), 6.0, -7.0)


def spike_and_slab_3():
    return mixture(np.zeros((2, 3)), [[1] * 3, [0.03] * 3], [0.5, 0.5], 1.0)


def two_modes_1():
    return mixture([[-5.0], [5.0]], [[1.0], [0.2]], [0.3, 0.7], 5.0)


def hierarchical(y, s, prior_scale, log_prior_tau) -> Target:
    """Groups y_j ~ N(theta_j, s_j), theta_j ~ N(mu, tau), centred; log tau is the second coordinate."""
    y, s = np.asarray(y, float), np.asarray(s, float)

    def log_density(x):
        mu, log_tau, theta = x[0], x[1], x[2:]
        prior = norm.logpdf(mu, 0, prior_scale) + log_prior_tau(log_tau, jnp)
        return prior + norm.logpdf(theta, mu, jnp.exp(log_tau)).sum() + norm.logpdf(jnp.asarray(y), theta, s).sum()

    log_z = log_mass_of_scale(y, s, prior_scale, log_prior_tau, (-30.0, 12.0))
    return of(log_density, len(y) + 2, log_z, prior_scale)


def log_mass_of_scale(y, s, prior_scale, log_prior_tau, limits) -> float:
    """log of the mass of a hierarchical model with log tau between limits: mu and theta are integrated out exactly."""

    def marginal(log_tau):
        v = s**2 + np.exp(2 * log_tau)[..., None]
        precision = 1 / prior_scale**2 + (1 / v).sum(-1)
        mean = (y / v).sum(-1) / precision
        quadratic = (y**2 / v).sum(-1) - precision * mean**2
        value = -0.5 * (quadratic + np.log(2 * np.pi * v).sum(-1) + np.log(precision * prior_scale**2))
        return value + log_prior_tau(log_tau, np)

    return grid(marginal, limits, points=200_001)


def half_normal(t, np):
    """The log density of log tau for tau half normal."""
    return 0.5 * np.log(2 / np.pi) - 0.5 * np.exp(2 * t) + t


def half_cauchy(t, np):
    """The log density of log tau for tau half Cauchy of scale 5."""
    return np.log(2 / np.pi / 5) - np.log1p(np.exp(2 * t) / 25) + t


SCHOOLS = np.array([28, 8, -3, 7, -1, 1, 18, 12]), np.array([15, 10, 16, 11, 9, 11, 10, 18])


def eight_groups():
    effects = [2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2]
    return hierarchical(effects, [1.5, 1, 1.6, 1.1, 0.9, 1.1, 1, 1.8], 1.0, half_normal)


def eight_schools():
    return hierarchical(*SCHOOLS, 5.0, half_cauchy)


def twenty_groups():
    rng = np.random.default_rng(5)
    return hierarchical(rng.normal(0, 0.3, 20), rng.uniform(0.3, 1, 20), 1.0, half_normal)


def many_groups():
    """So many that modes are told apart by few climbs, and no particles are tempered."""
    rng = np.random.default_rng(6)
    return hierarchical(rng.normal(0, 0.3, 150), rng.uniform(0.3, 1, 150), 1.0, half_normal)


def counts_in_groups():
    """Ten Poisson counts, whose log rates are normal with mean and scale unknown: given these not quite normal."""
    y = np.array([1, 2, 4, 3, 7, 2, 2, 0, 7, 7])

    def log_density(x):
        mu, log_tau, rates = x[0], x[1], x[2:]
        prior = norm.logpdf(mu, 0, 3) + half_normal(log_tau, jnp) + norm.logpdf(rates, mu, jnp.exp(log_tau)).sum()
        return prior + poisson.logpmf(jnp.asarray(y), jnp.exp(rates)).sum()

    z = np.linspace(-12, 12, 801)

    @np.vectorize
    def marginal(mu, log_tau):
        each = stats.poisson.logpmf(y[:, None], np.exp(mu + np.exp(log_tau) * z)) + stats.norm.logpdf(z)
        inside = special.logsumexp(each, axis=1).sum() + len(y) * np.log(z[1] - z[0])
        return inside + stats.norm.logpdf(mu, 0, 3) + half_normal(log_tau, np)

    return of(log_density, 12, grid(marginal, (-5, 6), (-13, 2.5), points=81), 3.0)


def funnel(dim, rotate=False, count=1):
    """As many funnels side by side, and rotated together."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(count * dim,) * 2))[0] if rotate else np.eye(dim)
    rotation = jnp.asarray(rotation, float)

    def log_density(z):
        x = (rotation @ z).reshape(count, dim)
        return norm.logpdf(x[:, 0], 0, 3).sum() + norm.logpdf(x[:, 1:], 0, jnp.exp(x[:, :1] / 2)).sum()

    return of(log_density, count * dim, 0.0)


def student(dim, nu, scale=1.0):
    def log_density(x):
        constant = gammaln((nu + dim) / 2) - gammaln(nu / 2) - dim / 2 * jnp.log(nu * jnp.pi)
        return constant - (nu + dim) / 2 * jnp.log1p(jnp.sum(x**2) / nu)

    return of(log_density, dim, 0.0, scale)


def log_gamma_5():
    """Logarithms of gamma variables of shape 0.1: steep on the right, where it overflows, and flat on the left."""
    return of(lambda x: jnp.sum(0.1 * x - jnp.exp(x)), 5, 5 * float(stats.loggamma.logpdf(0, 0.1) * -1 - 1), 5.0)


def ball(dim):
    volume = dim / 2 * np.log(np.pi) - float(gammaln(dim / 2 + 1)) + dim * np.log(2)

    def log_density(x):
        return jnp.where(jnp.sum(x**2) < 4, -1e-6 * jnp.sum(x**2), -jnp.inf)

    return of(log_density, dim, volume)


def half_normals_5():
    def log_density(x):
        return jnp.where((x > 0).all(), norm.logpdf(x).sum() + 5 * jnp.log(2.0), -jnp.inf)

    return of(log_density, 5, 0.0)


def box_3():
    def log_density(x):
        inside = (jnp.abs(x - 1) < 2).all()
        return jnp.where(inside, jnp.sum(0.5 * x), -jnp.inf)

    return of(log_density, 3, 3 * float(np.log((np.exp(1.5) - np.exp(-0.5)) / 0.5)), 2.0)


def far(distance, sd):
    return of(lambda x: norm.logpdf(x, distance, sd).sum(), 10, 0.0)


def rosenbrock_2():
    return of(lambda x: -((1 - x[0]) ** 2) - 20 * (x[1] - x[0] ** 2) ** 2, 2, float(np.log(np.pi / np.sqrt(20))))


def rosenbrock_10():
    def log_density(x):
        odd, even = x[::2], x[1::2]
        return jnp.sum(-((1 - odd) ** 2) - 10 * (even - odd**2) ** 2)

    return of(log_density, 10, 5 * float(np.log(np.pi / np.sqrt(10))))


def banana_10():
    def log_density(x):
        bent = x.at[1].add(0.1 * (x[0] ** 2 - 25))
        return norm.logpdf(bent[0], 0, 5) + norm.logpdf(bent[1:]).sum()

    return of(log_density, 10, 0.0, 3.0)


def laplace(dim: int):
    return of(lambda x: -jnp.sum(jnp.abs(x)) - dim * jnp.log(2.0), dim, 0.0)


def ring_2():
    values = grid(lambda r: -((r - 4) ** 2) / 0.08 + np.log(2 * np.pi * r), (1.0, 7.0))
    return of(lambda x: -((jnp.linalg.norm(x + 1e-12) - 4) ** 2) / 0.08, 2, values, 4.0)


def shell_5():
    area = np.log(2) + 2.5 * np.log(np.pi) - float(gammaln(2.5))
    values = grid(lambda r: -((r - 3) ** 2) / 0.18 + area + 4 * np.log(r), (0.5, 6.0))
    return of(lambda x: -((jnp.linalg.norm(x + 1e-12) - 3) ** 2) / 0.18, 5, values, 2.0)


def double_wells(dim: int):
    one = grid(lambda x: -(x**4) + 4 * x**2 + 0.3 * x, (-5.0, 5.0))
    return of(lambda x: jnp.sum(-(x**4) + 4 * x**2 + 0.3 * x), dim, dim * one, 1.5)


def ill_conditioned_30():
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    precision = jnp.asarray(basis @ np.diag(np.logspace(-2, 2, 30)) @ basis.T)
    return of(lambda x: -0.5 * x @ precision @ x, 30, float(15 * np.log(2 * np.pi)), 3.0)


def skew_20():
    """Products of skew normal distributions."""
    return of(lambda x: jnp.sum(jnp.log(2.0) + norm.logpdf(x) + norm.logcdf(4 * x)), 20, 0.0)


def logistic_100():
    return of(lambda x: jnp.sum(-x - 2 * jax.nn.softplus(-x)), 100, 0.0)


def normal_200():
    width = 1 + np.arange(200) / 100
    return of(lambda x: norm.logpdf(x, 1.0, width).sum() + 2.5, 200, 2.5)


def linear_regression():
    """Normal errors of unknown scale: the evidence is closed."""
    rng = np.random.default_rng(2)
    design = np.column_stack([np.ones(40), rng.normal(size=(40, 4))])
    y = design @ np.array([1.0, -2, 0.5, 0, 3]) + 0.7 * rng.normal(size=40)

    def log_density(x):
        beta, t = x[:5], x[5]
        scale = jnp.exp(t)
        prior = norm.logpdf(beta, 0, 3 * scale).sum() + norm.logpdf(t, 0, 1)
        return prior + norm.logpdf(jnp.asarray(y), jnp.asarray(design) @ beta, scale).sum()

    covariance = np.eye(40) + 9 * design @ design.T
    quadratic, (_, determinant) = y @ np.linalg.solve(covariance, y), np.linalg.slogdet(covariance)

    def marginal(t):
        return stats.norm.logpdf(t) - 0.5 * (40 * np.log(2 * np.pi) + determinant + 80 * t + quadratic * np.exp(-2 * t))

    return of(log_density, 6, grid(marginal, (-6.0, 6.0), points=20_001))


def logistic_regression():
    """10,000 rows and 10 dimensions; the truth by importance sampling from Laplace's approximation in NumPy."""
    rng = np.random.default_rng(7)
    design = rng.normal(size=(10_000, 10))
    labels = (rng.uniform(size=10_000) < 1 / (1 + np.exp(-design @ rng.normal(size=10) * 0.5))).astype(float)

    def log_posterior(beta):
        logits = beta @ design.T
        value = logits @ labels - np.logaddexp(0, logits).sum(-1)
        return value + stats.norm.logpdf(beta).sum(-1)

    mode, hessian = np.zeros(10), np.eye(10)
    for _ in range(20):
        p = 1 / (1 + np.exp(-design @ mode))
        hessian = (design.T * (p * (1 - p))) @ design + np.eye(10)
        mode = mode + np.linalg.solve(hessian, design.T @ (labels - p) - mode)
    draws = rng.multivariate_normal(mode, np.linalg.inv(hessian), 4000)
    log_w = log_posterior(draws) - stats.multivariate_normal(mode, np.linalg.inv(hessian)).logpdf(draws)
    truth = float(np.log(np.mean(np.exp(log_w - log_w.max()))) + log_w.max())
    columns, signs = jnp.asarray(design.T, float), jnp.asarray(2 * labels - 1, float)

    def log_density(beta):
        return -jnp.sum(jax.nn.softplus(-signs * (beta @ columns))) + norm.logpdf(beta).sum()

    return of(log_density, 10, truth)


def gaussian_process():
    """Length, height and noise of a Gaussian process of 30 points, on log scales; the truth by quadrature in three."""
    rng = np.random.default_rng(11)
    x = np.sort(rng.uniform(0, 5, 30))
    y = np.sin(x) + 0.2 * rng.normal(size=30)
    squares = (x[:, None] - x) ** 2

    def log_density(theta, np=jnp, solve=jnp.linalg.solve):
        length, height, noise = np.exp(theta[0]), np.exp(theta[1]), np.exp(theta[2])
        covariance = height**2 * np.exp(-squares / (2 * length**2)) + (noise**2 + 1e-4) * np.eye(30)
        factor = np.linalg.cholesky(covariance)
        half = solve(factor, np.asarray(y))
        value = -0.5 * half @ half - np.sum(np.log(np.diag(factor))) - 15 * np.log(2 * np.pi)
        return value - 0.5 * np.sum(theta**2) - 1.5 * np.log(2 * np.pi)

    axes = [np.linspace(-2.0, 3.0, 56), np.linspace(-2.5, 3.5, 56), np.linspace(-3.5, 0.5, 56)]
    values = np.array(
        [[[log_density(np.array([a, b, c]), np, np.linalg.solve) for c in axes[2]] for b in axes[1]] for a in axes[0]]
    )
    total = np.exp(values - values.max())
    for axis in reversed(axes):
        total = integrate.simpson(total, x=axis, axis=-1)
    return of(log_density, 3, float(np.log(total) + values.max()))


def two_cauchy_observations():
    data = np.array([-4.0, 4.0])
    truth = grid(lambda m: stats.cauchy.logpdf(data, m[..., None]).sum(-1) + stats.norm.logpdf(m, 0, 10), (-60.0, 60.0))
    return of(lambda x: cauchy.logpdf(jnp.asarray(data), x[0]).sum() + norm.logpdf(x[0], 0, 10), 1, truth, 10.0)


def label_switching():
    rng = np.random.default_rng(4)
    data = np.concatenate([rng.normal(-2, 1, 30), rng.normal(2, 1, 20)])

    def log_density(x):
        parts = jnp.stack([norm.logpdf(jnp.asarray(data), x[0]), norm.logpdf(jnp.asarray(data), x[1])])
        return jnp.sum(jax.nn.logsumexp(parts - jnp.log(2.0), axis=0)) + norm.logpdf(x, 0, 5).sum()

    def plain(a, b):
        parts = np.logaddexp(stats.norm.logpdf(data, a[..., None]), stats.norm.logpdf(data, b[..., None])) - np.log(2)
        return parts.sum(-1) + stats.norm.logpdf(a, 0, 5) + stats.norm.logpdf(b, 0, 5)

    return of(log_density, 2, grid(plain, (-8.0, 8.0), (-8.0, 8.0), points=501), 5.0)


def autoregression():
    """An AR(1) series of 60 points with unknown coefficient and scale."""
    rng = np.random.default_rng(8)
    y = np.zeros(60)
    for i in range(1, 60):
        y[i] = 0.9 * y[i - 1] + 0.5 * rng.normal()

    def log_density(a, t, np, logpdf):
        phi = np.tanh(a)
        residual = y[1:] - phi[..., None] * y[:-1]
        return logpdf(residual, 0, np.exp(t)[..., None]).sum(-1) + logpdf(a, 0, 1) + logpdf(t, 0, 1)

    truth = grid(lambda a, t: log_density(a, t, np, stats.norm.logpdf), (-4.0, 6.0), (-4.0, 3.0), points=601)
    return of(lambda x: log_density(x[0], x[1], jnp, norm.logpdf), 2, truth)


def horseshoe_10():
    """Five normal means with half-Cauchy scales, each pair a product of integrals in two dimensions."""
    y = np.array([0.1, -0.3, 0.2, 4.0, -6.0])

    def plain(x, t):
        prior = np.log(2 / np.pi) - np.log1p(np.exp(2 * t)) + t
        return stats.norm.logpdf(x, 0, np.exp(t)) + prior

    def scale_alone(t, value):
        prior = np.log(2 / np.pi) - np.log1p(np.exp(2 * t)) + t
        return stats.norm.logpdf(value, 0, np.sqrt(1 + np.exp(2 * t))) + prior

    truth = sum(grid(lambda t, v=v: scale_alone(t, v), (-25.0, 25.0), points=50_001) for v in y)

    def log_density(z):
        x, t = z[:5], z[5:]
        prior = jnp.log(2 / jnp.pi) - jax.nn.softplus(2 * t) + t
        return jnp.sum(norm.logpdf(jnp.asarray(y), x) + norm.logpdf(x, 0, jnp.exp(t)) + prior)

    return of(log_density, 10, float(truth), 2.0)


def forty_modes_50():
    rng = np.random.default_rng(9)
    return mixture(rng.uniform(-40, 40, (40, 50)), np.ones((40, 50)), np.ones(40), 40.0)


def rastrigin_5():
    def one(x, np):
        return -(x**2) / 8 + 2 * np.cos(np.pi * x)

    return of(lambda x: jnp.sum(one(x, jnp)), 5, 5 * grid(lambda x: one(x, np), (-25.0, 25.0), points=50_001), 2.0)


def independent_cauchy_3():
    return of(lambda x: jnp.sum(cauchy.logpdf(x)), 3, 0.0)


def two_modes_150():
    return mixture([corner(150, 0), corner(150, 15)], np.ones((2, 150)), [0.6, 0.4], 3.0)


def needle_20():
    """No start reaches the narrow mode: what the library cannot see, and says that it cannot."""
    return mixture([corner(20, 0), corner(20, 8)], [np.ones(20), 0.1 * np.ones(20)], [0.7, 0.3], 4.0)


def shells_10():
    """Two shells in a box, as in the test problems of nested sampling (Feroz, Hobson and Bridges, 2009)."""
    centres = jnp.zeros((2, 10)).at[:, 0].set(jnp.array([-3.5, 3.5]))

    def log_density(x):
        radii = jax.vmap(lambda centre: jnp.sqrt(jnp.sum((x - centre) ** 2) + 1e-12))(centres)
        inside = jnp.all(jnp.abs(x) <= 6)
        return jnp.where(inside, jax.nn.logsumexp(norm.logpdf(radii, 2.0, 0.1)) - 10 * jnp.log(12.0), -jnp.inf)

    def radial(r):
        return 9 * np.log(r) + stats.norm.logpdf(r, 2.0, 0.1)

    area = np.log(2) + 5 * np.log(np.pi) - gammaln(5.0)
    return of(log_density, 10, float(np.log(2) + area + grid(radial, (1.0, 3.0)) - 10 * np.log(12)), 3.0)


def log_gamma_modes_10():
    """Four modes with tails of two kinds (Beaujean and Caldwell, 2013)."""

    def gumbel(x, mean):
        return x - mean - jnp.exp(x - mean)

    def log_density(x):
        first = jnp.logaddexp(gumbel(x[0], 10.0), gumbel(x[0], -10.0)) - jnp.log(2.0)
        second = jnp.logaddexp(norm.logpdf(x[1], 10.0), norm.logpdf(x[1], -10.0)) - jnp.log(2.0)
        return first + second + jnp.sum(gumbel(x[2:6], 10.0)) + jnp.sum(norm.logpdf(x[6:], 10.0))

    return of(log_density, 10, 0.0, 10.0)


def egg_box():
    def inside(a, b, np):
        return (2 + np.cos(a / 2) * np.cos(b / 2)) ** 5 - 2 * np.log(10 * np.pi)

    def log_density(x):
        return jnp.where(jnp.all((x >= 0) & (x <= 10 * jnp.pi)), inside(x[0], x[1], jnp), -jnp.inf)

    ends = (0.0, 10 * np.pi)
    return of(log_density, 2, grid(lambda a, b: inside(a, b, np), ends, ends, points=4001), 16.0)


def two_funnels_6():
    def one(x, sign):
        v = sign * x[0] - 4
        return norm.logpdf(v, 0, 1.5) + jnp.sum(norm.logpdf(x[1:], 0, jnp.exp(v / 2)))

    return of(lambda x: jnp.logaddexp(jnp.log(0.7) + one(x, 1.0), jnp.log(0.3) + one(x, -1.0)), 6, 0.0, 4.0)


def covariance_matrix():
    """Twelve normal observations in three dimensions under a Wishart prior of the precision, by its log Cholesky."""
    rows, nu = np.random.default_rng(3).normal(size=(12, 3)) @ np.array([[1.4, 0.6, 0], [0, 0.8, 0.4], [0, 0, 0.6]]), 5
    posterior = np.eye(3) + rows.T @ rows
    log_z = multigammaln((nu + 12) / 2, 3) - multigammaln(nu / 2, 3) - 18 * np.log(np.pi)
    log_z -= (nu + 12) / 2 * np.linalg.slogdet(posterior)[1]
    constant = float(-3 * nu / 2 * np.log(2) - multigammaln(nu / 2, 3) - 18 * np.log(2 * np.pi))

    def log_density(x):
        factor = jnp.zeros((3, 3)).at[jnp.tril_indices(3)].set(x)
        logs = jnp.diagonal(factor)
        factor = factor - jnp.diag(logs) + jnp.diag(jnp.exp(logs))
        jacobian = 3 * jnp.log(2.0) + jnp.sum(jnp.array([4.0, 3.0, 2.0]) * logs)
        quadratic = jnp.sum(factor**2) + jnp.sum((jnp.asarray(rows) @ factor) ** 2)
        return constant + (nu - 4 + 12) * jnp.sum(logs) - quadratic / 2 + jacobian

    return of(log_density, 6, float(log_z))


def two_laplace_10():
    """Two modes without a curvature, unequal."""

    def log_density(x):
        one = jnp.log(0.7) - jnp.sum(jnp.abs(x)) - 10 * jnp.log(2)
        other = jnp.log(0.3) - jnp.sum(jnp.abs(x - 14 / np.sqrt(10))) / 0.4 - 10 * jnp.log(0.8)
        return jnp.logaddexp(one, other)

    return of(log_density, 10, 0.0, 5.0)


def two_balls_5():
    """Uniform on two balls that one start in a hundred hits."""
    other = jnp.asarray([5.0, 0, 0, 0, 0])

    def log_density(x):
        inside = (jnp.sum(x**2) < 4) | (jnp.sum((x - other) ** 2) < 1.44)
        return jnp.where(inside, 0.0, -jnp.inf)

    return of(log_density, 5, float(np.log(np.pi**2.5 / special.gamma(3.5) * (2**5 + 1.2**5))), 3.0)


def ordered_normals_5():
    """Five normal variables in increasing order."""

    def log_density(x):
        return jnp.where(jnp.all(jnp.diff(x) > 0), jnp.sum(norm.logpdf(x)), -jnp.inf)

    return of(log_density, 5, -float(special.gammaln(6)))


def nested_funnel_8():
    """A funnel whose scale is that of another."""

    def log_density(x):
        scales = jnp.exp(jnp.stack([jnp.log(2.0) * 2, x[0], *[jnp.clip(x[1], -30, 30)] * 6]) / 2)
        return jnp.sum(norm.logpdf(x, 0, scales))

    return of(log_density, 8, 0.0, 2.0)


def one_cauchy_10():
    return of(lambda x: cauchy.logpdf(x[0]) + norm.logpdf(x[1:]).sum(), 10, 0.0)


def separated_logistic():
    """A covariate that separates the outcomes, and Cauchy priors: the likelihood bounds the slope on one side only."""
    covariate = np.array([-3, -2, -1.5, -1, -0.5, 0.6, 1, 1.4, 2, 3])
    signs = np.sign(covariate)

    def log_density(x):
        prior = cauchy.logpdf(x[0], 0, 10.0) + cauchy.logpdf(x[1], 0, 2.5)
        return prior + jax.nn.log_sigmoid(signs * (x[0] + covariate * x[1])).sum()

    def on_the_grid(u, v):  # x = sinh u, for its tails reach far
        value = stats.cauchy.logpdf(np.sinh(u), 0, 10.0) + stats.cauchy.logpdf(np.sinh(v), 0, 2.5)
        for z, sign in zip(covariate, signs, strict=True):
            value -= np.logaddexp(0, -sign * (np.sinh(u) + z * np.sinh(v)))
        return value + np.log(np.cosh(u)) + np.log(np.cosh(v))

    return of(log_density, 2, grid(on_the_grid, (-14.0, 14.0), (-14.0, 14.0), points=4001), 2.5)


def heavy_tailed_modes_8():
    """Four multivariate t distributions with 3 degrees of freedom, the lightest the narrowest."""
    means = jnp.asarray(np.random.default_rng(4).uniform(-10, 10, (4, 8)))
    widths, shares, nu = jnp.array([0.5, 1.0, 2.0, 1.0]), jnp.array([0.1, 0.4, 0.3, 0.2]), 3.0

    def log_density(x):
        squares = jnp.sum((x[None] - means) ** 2, axis=1) / widths**2
        constant = special.gammaln((nu + 8) / 2) - special.gammaln(nu / 2) - 4 * np.log(nu * np.pi)
        tails = -(nu + 8) / 2 * jnp.log1p(squares / nu) - 8 * jnp.log(widths)
        return constant + jax.nn.logsumexp(jnp.log(shares) + tails)

    return of(log_density, 8, 0.0, 6.0)


def three_crescents_5():
    """Bent normal distributions far from each other: climbs find each, and an arm of one can be in no component."""

    def bent(x, middle, bend):
        away = x - middle
        return norm.logpdf(away.at[1].add(bend * (away[0] ** 2 - 1))).sum()

    def log_density(x):
        third = jnp.zeros(5).at[:2].set(jnp.array([-7.0, 3.0]))
        parts = [bent(x, 0.0, 0.8), bent(x, 5.0, -0.8), bent(x, third, 0.0)]
        return jax.nn.logsumexp(jnp.stack(parts)) - jnp.log(3.0)

    return of(log_density, 5, 0.0, 5.0)


def turned_double_wells_6():
    """Sixty-four modes, the masses of which differ by up to seventeen nats, along axes of no coordinate."""
    rotation = jnp.asarray(stats.ortho_group.rvs(6, random_state=1), float)

    def well(t):
        return -(t**4) / 4 + 2 * t**2 + 0.7 * t - 4

    one = np.log(integrate.quad(lambda t: np.exp(well(t)), -8, 8, points=[-2, 2])[0])
    return of(lambda x: jnp.sum(well(rotation @ x)), 6, 6 * float(one), 2.0)


def random_walk_27():
    """A random walk with noise, both scales of which are unknown: given these it is normal, given one it is not."""
    rng, count = np.random.default_rng(8), 25
    data = np.cumsum(0.3 * rng.normal(size=count)) + 0.6 * rng.normal(size=count)
    walk = np.minimum.outer(np.arange(1, count + 1), np.arange(1, count + 1))
    values, vectors = np.linalg.eigh(walk)
    turned = vectors.T @ data

    def log_density(x):
        steps = norm.logpdf(jnp.diff(x[:count], prepend=0.0), 0, jnp.exp(x[count]))
        return steps.sum() + norm.logpdf(data, x[:count], jnp.exp(x[-1])).sum() + norm.logpdf(x[count:], -1, 1).sum()

    def on_the_grid(u, v):
        variances = np.exp(2 * u)[..., None] * values + np.exp(2 * v)[..., None]
        likelihood = stats.norm.logpdf(turned, 0, np.sqrt(variances)).sum(axis=-1)
        return likelihood + stats.norm.logpdf(u, -1, 1) + stats.norm.logpdf(v, -1, 1)

    return of(log_density, count + 2, grid(on_the_grid, (-8.0, 4.0), (-8.0, 4.0), points=401), 1.0)


PROBLEMS: dict[str, Callable[[], Target]] = {
    "unequal modes, 10-d": unequal_modes_10,
    "unequal modes, 20-d": unequal_modes_20,
    "three modes, 5-d": three_modes_5,
    "twelve modes, 8-d": twelve_modes_8,
    "forty modes, 50-d": forty_modes_50,
    "spike and slab, 3-d": spike_and_slab_3,
    "two modes, 1-d": two_modes_1,
    "eight groups": eight_groups,
    "eight schools": eight_schools,
    "twenty groups": twenty_groups,
    "150 groups": many_groups,
    "counts in groups": counts_in_groups,
    "funnel, 5-d": lambda: funnel(5),
    "funnel, 20-d": lambda: funnel(20),
    "rotated funnel, 5-d": lambda: funnel(5, rotate=True),
    "three rotated funnels, 12-d": lambda: funnel(4, rotate=True, count=3),
    "t with 3, 10-d": lambda: student(10, 3),
    "t with 2, 20-d": lambda: student(20, 2),
    "Cauchy, 5-d": lambda: student(5, 1),
    "log gamma, 5-d": log_gamma_5,
    "ball, 5-d": lambda: ball(5),
    "ball, 10-d": lambda: ball(10),
    "half normals, 5-d": half_normals_5,
    "box, 3-d": box_3,
    "far, 50 sd": lambda: far(50.0, 1.0),
    "far and narrow": lambda: far(5.0, 0.05),
    "Rosenbrock, 2-d": rosenbrock_2,
    "Rosenbrock, 10-d": rosenbrock_10,
    "banana, 10-d": banana_10,
    "Laplace, 10-d": lambda: laplace(10),
    "Laplace, 150-d": lambda: laplace(150),
    "ring, 2-d": ring_2,
    "shell, 5-d": shell_5,
    "double wells, 8-d": lambda: double_wells(8),
    "double wells, 150-d": lambda: double_wells(150),
    "ill-conditioned, 30-d": ill_conditioned_30,
    "skew, 20-d": skew_20,
    "logistic, 100-d": logistic_100,
    "normal, 200-d": normal_200,
    "linear regression": linear_regression,
    "logistic regression, 10,000 rows": logistic_regression,
    "Gaussian process": gaussian_process,
    "two Cauchy observations": two_cauchy_observations,
    "label switching": label_switching,
    "autoregression": autoregression,
    "horseshoe, 10-d": horseshoe_10,
    "Rastrigin, 5-d": rastrigin_5,
    "independent Cauchy, 3-d": independent_cauchy_3,
    "two modes, 150-d": two_modes_150,
    "needle, 20-d": needle_20,
    "shells, 10-d": shells_10,
    "log gamma modes, 10-d": log_gamma_modes_10,
    "egg box": egg_box,
    "two funnels, 6-d": two_funnels_6,
    "covariance matrix": covariance_matrix,
    "two Laplace modes, 10-d": two_laplace_10,
    "two balls, 5-d": two_balls_5,
    "ordered normals, 5-d": ordered_normals_5,
    "nested funnel, 8-d": nested_funnel_8,
    "one Cauchy coordinate, 10-d": one_cauchy_10,
    "logistic regression, separated": separated_logistic,
    "heavy-tailed modes, 8-d": heavy_tailed_modes_8,
    "three crescents, 5-d": three_crescents_5,
    "turned double wells, 6-d": turned_double_wells_6,
    "random walk, 27-d": random_walk_27,
}


def run(name: str, seed: int) -> dict:
    """One problem and seed: the figures, and whether the answer was right and whether it was trusted."""
    target = PROBLEMS[name]()
    begun = time.process_time()
    # What the user has: a density, not the truth.
    result = dds.sample(jax.random.key(seed), target._replace(log_z=None))
    report, truth = result.report, target.log_z
    assert truth is not None
    error = report.log_z - truth
    trusted = result.verdict.startswith("Trust")
    plan = result.recipe.plan
    return {
        "problem": name,
        "seed": seed,
        "rung": plan.kind if plan else "",
        "error": error,
        "standard_error": report.log_z_standard_error,
        "covered": abs(error) <= 3 * report.log_z_standard_error + 1e-4 * (1 + abs(truth)),
        "right": abs(error) <= 0.03 + 4 * min(report.log_z_standard_error, 0.02),
        "trusted": trusted,
        "ess": report.ess,
        "cpu_seconds": time.process_time() - begun,
        "evaluations": result.evaluations,
        "verdict": result.verdict,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(PROBLEMS), metavar="PROBLEM")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--records", type=Path, default=Path("build/problems.json"))
    parser.add_argument("--one", nargs=2, metavar=("PROBLEM", "SEED"), help="one run, its record as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run(arguments.one[0], int(arguments.one[1])), default=float))
        sys.exit()
    arguments.records.parent.mkdir(exist_ok=True)
    records = json.loads(arguments.records.read_text()) if arguments.records.exists() else []
    done = {(record["problem"], record["seed"]) for record in records}
    for seed in range(arguments.seeds):
        for name in arguments.names:
            if (name, seed) in done:
                continue
            # A process each: compiled programs of all of them together would fill the memory.
            command = [sys.executable, __file__, "--one", name, str(seed)]
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            record = json.loads(out.stdout.splitlines()[-1]) if out.returncode == 0 else {"problem": name, "seed": seed}
            records.append(record)
            arguments.records.write_text(json.dumps(records, indent=1) + "\n")
            if "error" in record:
                print(
                    f"{name:34s} {seed} {record['rung']:12s} {record['error']:+.4f} +- {record['standard_error']:.4f} "
                    f"{'right' if record['right'] else 'WRONG'} {'trusted' if record['trusted'] else 'doubted'} "
                    f"ESS {record['ess']:.2f} {record['cpu_seconds']:.0f} s",
                    flush=True,
                )
            else:
                print(f"{name:34s} {seed} FAILED", flush=True)
    whole = [record for record in records if "error" in record]
    for right in (True, False):
        for trusted in (True, False):
            count = sum(r["right"] == right and r["trusted"] == trusted for r in whole)
            print(
                f"{'right' if right else 'wrong'} and {'trusted' if trusted else 'doubted'}: {count} of {len(records)}"
            )
    print(
        f"the error bar (three standard errors) covers the truth: {sum(r['covered'] for r in whole)} of {len(records)}"
    )
