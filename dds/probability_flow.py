r"""The probability flow: samples with a density each, from a trained DDS, without noise on the way.

The time reversal $dy = (-y + 2u)\,d\tau + \sqrt2\,dW$ has the marginals of the ordinary differential equation

$$ \frac{dy}{d\tau} = y + \nabla \log p_t(y) = u(y, \tau), $$

so the control of the sampler is the velocity. Discretised, it is a chain of maps. If each of them is one to one, the
density of the end is known exactly, $\log q(x) = \log p_0(y_0) - \sum_k \log \lvert \det J_k \rvert$ in the sampler's
coordinates, and the mean of $\gamma / q$ is $Z$ for any control and any number of steps. A map is one to one if its
step is short for the control; where it is not, $Z$ comes out too large, and `Draw.folded` says so.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from dds import mixtures, normal
from dds.checks import require, typed
from dds.paths import step_rows
from dds.types import KeyArray, Point, Row, Sampler, Scalar, State


class Draw(NamedTuple):
    """A sample of the flow.

    Attributes:
        x: The sample, in the user's coordinates.
        log_density: Its log density under the flow.
        folded: Whether a step was too long for the control: the derivative of its map, where it was taken, had a
            symmetric part that is not positive definite. If it has one everywhere the map is one to one; where not, two
            points may end in one, and `log_density` is then less than the density. With `probes` it is not asked.
    """

    x: Point
    log_density: Scalar
    folded: Bool[Array, ""]


@typed
def draw(key: KeyArray, sampler: Sampler, *, heun: bool = True, probes: int = 0) -> Draw:
    r"""Draws a sample with its density.

    Args:
        key: The random key.
        sampler: The sampler: a control of the Ornstein-Uhlenbeck process, as of `dds.families.dds`.
        heun: Whether to step by Heun's rule, with two evaluations of the control and an error of second order in the
            length of a step; else by Euler's, with one.
        probes: 0 for the determinant of each step, by as many derivatives as dimensions; otherwise the number of random
            directions in which the divergence of the control is estimated (Hutchinson), for many dimensions: the
            density is then not exact, and the mean of $\gamma / q$ not quite $Z$.

    Returns:
        The sample.

    Raises:
        ValueError: If the sampler is of another kind, or `probes` is negative.

    References:
        Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole (2021), section 4.3; Vargas, Grathwohl and Doucet (2023),
        who estimate log Z by the flow, too.

    Example:
        >>> from dds import families, networks, schedules
        >>> network = networks.mlp(2, lambda y: -y)
        >>> fractions = schedules.cosine(8, total=2.0)
        >>> family = families.dds(network, fractions, normal.standard(2))
        >>> sampler = family.sampler(family.init(jax.random.key(0)))
        >>> drawn = draw(jax.random.key(1), sampler)  # no control yet: the prior
        >>> exact = normal.log_density(normal.standard(2), drawn.x)
        >>> bool(jnp.abs(drawn.log_density - exact) < 1e-6)
        True
    """
    require(probes >= 0, "probes", probes, "at least 0")
    fractions = sampler.reference.rows
    is_ou = isinstance(fractions, jax.Array) and fractions.ndim == 1
    require(is_ou, "the reference of the sampler", "another process", "the Ornstein-Uhlenbeck process")
    step_rows(sampler)  # are they of the right length?
    start_key, probe_key = jax.random.split(key)
    dtype = sampler.reference.start.mean.dtype
    y = mixtures.draw(sampler.prior, jax.random.normal(start_key, (mixtures.noise_size(sampler.prior),), dtype))
    directions = jax.random.rademacher(probe_key, (probes, y.size), dtype)

    def velocity(y: State, at: tuple[Row, Scalar]) -> State:
        row, fraction = at
        transitions = sampler.kernel.apply(y, row)
        require(transitions.backward is None, "the kernel", "one that learns steps back", "one with those of the OU's")
        return transitions.forward.mean / jnp.sqrt(fraction)

    def step(y: State, inputs: tuple[tuple[Row, Scalar], tuple[Row, Scalar], Scalar]):
        now, then, length = inputs

        def move(y: State) -> State:
            slope = velocity(y, now)
            slope = (slope + velocity(y + length * slope, then)) / 2 if heun else slope
            return y + length * slope

        def divergence(y: State, at: tuple[Row, Scalar]) -> Scalar:
            along = jax.vmap(lambda v: jax.jvp(lambda y: velocity(y, at), (y,), (v,))[1])(directions)
            return jnp.mean(jnp.sum(directions * along, axis=1))

        if probes == 0:
            slope, moved = jax.jacfwd(lambda y: (end := move(y), end), has_aux=True)(y)
            is_definite = jnp.isfinite(jnp.linalg.cholesky(slope + slope.T)).all()
            return moved, (jnp.linalg.slogdet(slope)[1], ~is_definite)
        moved = move(y)
        change = (divergence(y, now) + divergence(moved, then)) / 2 if heun else divergence(y, now)
        return moved, (length * change, jnp.zeros((), bool))

    rows = jax.tree.map(lambda row: row[:-1], sampler.kernel.rows), fractions
    following = jax.tree.map(lambda row: jnp.concatenate([row[1:], row[-1:]]), rows)  # the last step has its own twice
    end, (log_slopes, folds) = jax.lax.scan(step, y, (rows, following, -0.5 * jnp.log1p(-fractions)))
    x, log_determinant = normal.bijection(sampler.coordinates).forward(end)
    log_density = mixtures.log_density(sampler.prior, y) - jnp.sum(log_slopes) - log_determinant
    return Draw(x, log_density, jnp.any(folds))
