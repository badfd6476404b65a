"""jit, vmap and grad of every public function that works on arrays, in both precisions."""

import functools
import importlib
import inspect
from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import pytest
from jax.test_util import check_grads
from problems import SAMPLERS, normal_target, perturbed

from dds import (
    compiling,
    conditional,
    coordinates,
    estimators,
    families,
    kernels,
    learned,
    losses,
    mixtures,
    networks,
    normal,
    paths,
    references,
    schedules,
    smc,
    targets,
)
from dds.types import Neck, Normal, Potentials, Sampler

KEY = jax.random.key(0)
STEPS, DIM = 3, 2
# These take Python numbers or callables and run before anything is compiled.
EAGER = (
    {
        "estimators.bridge",  # by bisection: it has no gradient
        "estimators.pareto_k",
        "estimators.pareto_limit",
        "learned.init",
        "networks.mlp",
        "paths.potentials",
        "normal.standard",
        "paths.noise_size",
        "paths.steps",
        "references.brownian",
        "references.kinetic",
        "references.ou",
    }
    | {
        f"{module.__name__[4:]}.{name}"
        for module in (coordinates, schedules, smc, targets)
        for name, _ in inspect.getmembers(module, inspect.isfunction)
    }
)


def zero_control(y, k):
    return jnp.tanh(y) / (k + 2.0)


@functools.cache
def cases(precision):
    """The functions, and arguments of them, made once in each precision."""
    x, y = jnp.array([0.3, -0.8]), jnp.array([1.2, 0.4])
    mean, covariance = normal_target(DIM)
    distribution = Normal(mean, jnp.linalg.cholesky(covariance))
    other = Normal(x, jnp.array([0.5, 1.5]))
    fractions = jnp.array([0.5, 0.3, 0.1])
    states = jnp.linspace(-1, 1, 8).reshape(4, 2)
    log_w = jnp.array([0.1, -0.7, 0.4, 0.9])
    target = targets.funnel(DIM)
    network = networks.mlp(DIM, jax.grad(target.log_density), width=4)
    flat, unravel = jax.flatten_util.ravel_pytree(network.init(KEY))
    flat = flat + jnp.linspace(-0.3, 0.3, flat.size)
    rows = network.tabulate(unravel(flat), STEPS)
    flat_learned, unravel_learned = jax.flatten_util.ravel_pytree(learned.init(KEY, fractions, DIM, width=3))

    def sampler_of(fractions, place=other):
        reference = references.ou(fractions, DIM)
        return Sampler(reference.start, reference, kernels.denoising(fractions, zero_control), place)

    def first(kernel):
        return kernel.apply(x, jax.tree.map(lambda row: row[1], kernel.rows))

    def loss(name, **more):
        function = partial(getattr(losses, name), log_density=target.log_density, paths=3, **more)
        return (lambda b: function(sampler_of(b), KEY), (fractions,))

    def weight_of(name):
        made = SAMPLERS[name](target.log_density, distribution)

        def weight(parameters, *place):
            family = SAMPLERS[name](target.log_density, *place) if place else made
            _, unravel = jax.flatten_util.ravel_pytree(family.init(KEY))
            path = paths.sample_path(KEY, family.sampler(unravel(parameters)))
            return losses.log_weight(path, target.log_density)

        # The table of a neck is made of Python numbers, so it is made before.
        places = () if name == "conditional" else (distribution,)
        return weight, (jax.flatten_util.ravel_pytree(perturbed(made))[0], *places)

    nodes = jnp.linspace(-1.0, 1.0, 5)[:, None]
    scalar = Normal(jnp.zeros(1), jnp.ones((1, 1)))
    neck = Neck(
        jnp.array([1, 0]), jnp.array([[0.5]]), scalar, jnp.array([[-3.0], [3.0]]), nodes**2, jnp.ones((5, 1, 1)), nodes
    )

    def there_and_back(modes, y):
        place = conditional.bijection(neck._replace(modes=modes))
        x, log_determinant = place.forward(y)
        return x, log_determinant, *place.inverse(x + 0.1)

    def one_step(b, noise):
        sampler = sampler_of(b)
        row = jax.tree.map(lambda rows: rows[1], paths.step_rows(sampler))
        return paths.step(sampler, paths.first_visit(sampler, x), row, noise)

    def with_guess(b, guess):
        log_z, rows = guess[0], guess[1:]
        potentials = Potentials(log_z, rows, lambda y, row: row * jnp.sum(jnp.tanh(y)))
        return sampler_of(b)._replace(potentials=potentials)

    def balance(name):
        # Paths are constant, so that they are the same for the differences that gradients are compared with.
        function, both = getattr(losses, name), jnp.stack([states, states + 1])
        options = {"log_density": target.log_density, "paths": 2, "origin": lambda *_: both.astype(states.dtype)}
        return (lambda b, guess: function(with_guess(b, guess), KEY, **options), (fractions, guess))

    def matching(factor):
        kernel = kernels.denoising(fractions, lambda y, k: factor * zero_control(y, k))
        options = {"log_density": target.log_density, "paths": 1, "origin": lambda *_: states[None].astype(x.dtype)}
        return losses.adjoint_matching(sampler_of(fractions)._replace(kernel=kernel), KEY, **options)

    def along(y, b, guess):
        sampler = with_guess(b, guess)
        return losses.log_weights_along(paths.retrace(y, sampler), sampler, target.log_density)

    def potential(parameters, y):
        family = families.with_potentials(SAMPLERS["dds"](target.log_density, other), target.log_density)
        _, unravel = jax.flatten_util.ravel_pytree(family.init(KEY))
        potentials = family.sampler(unravel(parameters)).potentials
        return potentials.log_z, potentials.apply(y, jax.tree.map(lambda row: row[1], potentials.rows))

    def prior(parameters, y):
        family = SAMPLERS["mixture"](target.log_density, other)
        _, unravel = jax.flatten_util.ravel_pytree(family.init(KEY))
        return mixtures.log_density(family.sampler(unravel(parameters)).prior, y)

    guess = jnp.array([0.4, -0.3, 0.8])
    family = families.with_potentials(SAMPLERS["dds"](target.log_density, other), target.log_density)
    flat_guess = jax.flatten_util.ravel_pytree(perturbed(family))[0]
    flat_prior = jax.flatten_util.ravel_pytree(perturbed(SAMPLERS["mixture"](target.log_density, other)))[0]

    return {
        "normal.reparameterise": (normal.reparameterise, (distribution, x)),
        "normal.standardise": (normal.standardise, (distribution, x)),
        "normal.log_determinant": (normal.log_determinant, (distribution,)),
        "normal.log_density": (normal.log_density, (distribution, x)),
        "normal.log_ratio": (normal.log_ratio, (distribution, other, x)),
        "normal.compose": (normal.compose, (distribution, other)),
        "normal.factor": (normal.factor, (other,)),
        "normal.bijection": (lambda d, x: normal.bijection(d).forward(x), (distribution, x)),
        "normal.pull_back": (lambda d, x: normal.pull_back(d, target.log_density)(x), (distribution, x)),
        "references.reflect": (references.reflect, (x, y, fractions[0])),
        "references.noise_levels": (references.noise_levels, (fractions,)),
        "kernels.control": (kernels.control, (x, y)),
        "kernels.drift": (kernels.drift, (x, y)),
        "kernels.bounded": (lambda y: kernels.bounded(lambda y: -(y**3), 1.0)(y), (x,)),
        "kernels.denoising": (lambda b: first(kernels.denoising(b, zero_control)), (fractions,)),
        "kernels.path_integral": (lambda t: first(kernels.path_integral(t, zero_control)), (jnp.array([0.2, 0.5, 1]),)),
        "kernels.annealed": (
            lambda b, t: first(kernels.annealed(b, t, jax.grad(target.log_density), zero_control)),
            (fractions, jnp.linspace(0, 1, 4)),
        ),
        "kernels.both_ways": (kernels.both_ways, (fractions,)),
        "kernels.gaussian_marginal": (
            lambda b, m, c: kernels.gaussian_marginal(b, m, c, 1),
            (fractions, mean, covariance),
        ),
        "kernels.gaussian_control": (
            lambda b, m, c: kernels.gaussian_control(b, m, c)(x, 1),
            (fractions, mean, covariance),
        ),
        "kernels.gaussian": (lambda b, m, c: first(kernels.gaussian(b, m, c)), (fractions, mean, covariance)),
        "learned.coordinates": (lambda p: learned.coordinates(unravel_learned(p)), (flat_learned,)),
        "learned.fractions": (lambda p: learned.fractions(unravel_learned(p)), (flat_learned,)),
        "learned.kernel": (lambda p: first(learned.kernel(unravel_learned(p), lambda z: -(z**3))), (flat_learned,)),
        "paths.noise_path": (lambda b, x: paths.noise_path(KEY, sampler_of(b), x), (fractions, x)),
        "paths.first_visit": (lambda b, e: paths.first_visit(sampler_of(b), e), (fractions, x)),
        "paths.cut_noise": (lambda e: paths.cut_noise(e, sampler_of(fractions)), (jnp.linspace(-1, 1, 8),)),
        "paths.step": (one_step, (fractions, y)),
        "paths.pull_back": (lambda b, v: paths.pull_back(sampler_of(b), v), (fractions, y)),
        "paths.step_rows": (lambda b: paths.step_rows(sampler_of(b))[0], (fractions,)),
        "paths.positions": (
            lambda y, m: paths.positions(y, sampler_of(fractions, Normal(m, other.scale))),
            (states, x),
        ),
        "networks.tabulate": (lambda flat: network.tabulate(unravel(flat), STEPS), (flat,)),
        "networks.apply": (
            lambda flat, y: network.apply(unravel(flat), y, jax.tree.map(lambda row: row[0], rows)),
            (flat, x),
        ),
        "paths.sample_path": (lambda b: paths.sample_path(KEY, sampler_of(b)), (fractions,)),
        "paths.path_of_noise": (
            lambda b, e: paths.path_of_noise(e, sampler_of(b)),
            (fractions, jnp.linspace(-1, 1, 8)),
        ),
        "paths.retrace": (lambda y, b: paths.retrace(y, sampler_of(b)), (states, fractions)),
        **{f"families.{name}": weight_of(name) for name in SAMPLERS},
        "conditional.bijection": (there_and_back, (nodes**2, y)),
        "losses.log_weight": (
            lambda y, b: losses.log_weight(paths.retrace(y, sampler_of(b)), target.log_density),
            (states, fractions),
        ),
        "losses.log_weights": (lambda b: losses.log_weights(sampler_of(b), KEY, target.log_density, 3), (fractions,)),
        "losses.with_finite_gradient": (losses.with_finite_gradient(target.log_density), (x,)),
        "losses.reverse_kl": loss("reverse_kl", stick_the_landing=False),
        "losses.forward_kl": loss("forward_kl", points=states),
        "losses.log_variance": (
            lambda y, b: jnp.var(
                jax.vmap(lambda y: losses.log_weight(paths.retrace(y, sampler_of(b)), target.log_density))(y)
            ),
            (jnp.stack([states, states + 1]), fractions),
        ),
        "losses.log_weights_along": (along, (states, fractions, guess)),
        "losses.trajectory_balance": balance("trajectory_balance"),
        "losses.sub_trajectory_balance": balance("sub_trajectory_balance"),
        "losses.adjoint_matching": (matching, (jnp.array(0.7),)),
        "families.with_mixture": (prior, (flat_prior, y)),
        "families.with_potentials": (potential, (flat_guess, y)),
        "paths.end_potential": (
            lambda b, y: paths.end_potential(sampler_of(b), y, target.log_density),
            (fractions, y),
        ),
        "estimators.log_z": (estimators.log_z, (log_w,)),
        "estimators.pool": (lambda w, v: estimators.pool(w, v, v[0]), (log_w, log_w[::-1] + 0.3)),
        "estimators.elbo": (estimators.elbo, (log_w,)),
        "estimators.eubo": (estimators.eubo, (log_w,)),
        "estimators.effective_sample_size": (estimators.effective_sample_size, (log_w,)),
        "estimators.forward_effective_sample_size": (estimators.forward_effective_sample_size, (log_w,)),
        "estimators.resample": (lambda w: estimators.resample(KEY, w, 5), (log_w,)),
        "targets.funnel": (target.log_density, (x,)),
        "targets.gaussian": (targets.gaussian(mean, covariance).log_density, (x,)),
        "targets.gaussian_mixture": (targets.gaussian_mixture(states, jnp.ones(4)).log_density, (x,)),
    }


def test_every_public_function_is_here():
    modules = (coordinates, estimators, families, kernels, learned, losses)
    modules += (networks, normal, paths, references, schedules, smc, targets)
    public = {
        f"{module.__name__[4:]}.{name}"
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__.startswith(module.__name__) and not name.startswith("_")
    }
    assert public <= set(cases("float32")) | EAGER, public - set(cases("float32")) - EAGER


@pytest.mark.parametrize("name", cases("float32"))
def test_jit_vmap_and_grad(precision, name):
    function, arguments = cases(precision)[name]
    arguments = jax.tree.map(lambda x: x.astype(precision), arguments)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if precision == "float32" else {"rtol": 1e-9, "atol": 1e-12}
    traces = []

    def counted(*arguments):
        traces.append(None)
        return function(*arguments)

    compiled = jax.jit(counted)
    twice = [compiled(*arguments), compiled(*arguments)]
    assert len(traces) == 1
    jax.tree.map(np.testing.assert_array_equal, *twice)
    for leaf in jax.tree.leaves(twice):
        assert leaf.dtype == precision or not jnp.issubdtype(leaf.dtype, jnp.floating)

    batch = jax.tree.map(lambda x: jnp.stack([x, x]), arguments)
    rows = jax.tree.map(np.asarray, jax.jit(jax.vmap(function))(*batch))
    for i in range(2):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a, b[i], **tolerance), twice[0], rows)

    if precision == "float64" and name != "estimators.resample":  # indices have no gradient
        check_grads(compiled, arguments, order=1, modes=["rev"], rtol=1e-4, atol=1e-5)


def test_the_compiler_sums_products_with_many_vectors_right():
    # 41,000 terms: what jaxlib 0.10.2 does wrongly (`dds.compiling.BROKEN`).
    matrix = np.random.default_rng(0).normal(size=(41, 3)).astype(np.float32)
    points = np.sin(np.arange(3000.0)).reshape(1000, 3)
    each = jax.vmap(lambda row: jnp.sum(jnp.exp(jnp.sum(matrix * row[None], axis=-1))))
    sums = jax.jit(lambda: each(jnp.sin(jnp.arange(3000.0)).reshape(1000, 3)))()
    np.testing.assert_allclose(sums, np.exp(points @ matrix.T).sum(axis=1), rtol=1e-4)


def test_a_broken_compiler_is_warned_of(monkeypatch):
    monkeypatch.setattr(jaxlib.version, "__version__", compiling.BROKEN[0])
    with pytest.warns(UserWarning, match=r"jaxlib 0\.10\.2 computes some sums wrongly on a CPU"):
        importlib.reload(compiling)
