r"""Coordinates for necks: normal in all coordinates but a few, given these few.

A scale parameter makes a density that is narrow at one end and wide at the other, as Neal's funnel and every centred
hierarchical model. No affine map makes it round, and walkers do not pass the neck. Given the few coordinates $u$ that
it is due to, the others, $v$, are often nearly normal. Then

$$ u = m + S y_u, \qquad v = \hat v(u) + H(u)^{-1/2} y_v, $$

with the mode $\hat v(u)$ and the curvature $H(u)$ of $\log \gamma(u, \cdot)$, is a bijection with
$\log\lvert\det\rvert = \log\det S - \tfrac12 \log\det H(u)$, under which $v$ is nearly standard normal whatever $u$ is.
It is the Laplace approximation of Rue, Martino and Chopin (2009), but as a change of variables: weights stay exact.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds import normal
from dds.checks import require, typed
from dds.compiling import in_batches, once
from dds.types import Bijection, LogDensity, Normal, Scalar, State

MOST = 3
"""The most coordinates that `neck` looks for."""

NORMAL = 8.0
"""The variance of log weights up to which the other coordinates may be nearly normal: draws show whether they are."""

LARGE, GAIN = 0.25, 0.2
"""What is due to a coordinate of a neck: at least this part of the variance, and above four dimensions so much."""

WEAK = 0.9
"""The part from which it counts, too, however little there is: a second, weaker neck."""

ROUNDING = 1e-5
"""The variance up to which there is none: a fit of a neck can be so narrow that it sees little."""

NEWTON = 3
"""The Newton steps to the mode of the other coordinates."""


@typed
def neck(log_density: LogDensity, fit: Normal, noise: Float[Array, "2 draws dim"]) -> tuple[int, ...]:
    r"""The few coordinates given which the others are nearly normal.

    Third derivatives of $\log \gamma$ make the log weights of draws $v$ from a normal distribution vary, to first order
    with the variance

    $$ \mathbb E\left[\bigl(\tfrac16\, D^3 \log \gamma(x)[v, v, v]\bigr)^2\right], $$

    here with $x$ from a fit, and $v$ as in the fit given $u$. Coordinates are taken into $u$ one by one, each time the
    one to which most of it is due, as long as that is a large part.

    Args:
        log_density: The log density.
        fit: A normal fit.
        noise: Standard normal noise, of draws from the fit and of directions.

    Returns:
        The indices of the coordinates, that with the largest part first; none if there are no few such.

    Example:
        >>> from dds import targets
        >>> noise = jax.random.normal(jax.random.key(0), (2, 256, 5))
        >>> neck(targets.funnel(5).log_density, normal.standard(5), noise)
        (0,)
    """
    dim, factor = fit.mean.size, np.asarray(normal.factor(fit), np.float64)
    points = jax.vmap(partial(normal.reparameterise, fit))(noise[0])

    @once
    def cubic(points: Array, directions: Array) -> Array:
        def one(x: State, v: State) -> Scalar:
            def slope(s: Scalar) -> Scalar:
                return jnp.vdot(jax.grad(log_density)(x + s * v), v)

            def bend(s: Scalar) -> Scalar:
                return jax.jvp(slope, (s,), (jnp.ones_like(s),))[1]

            zero = jnp.zeros((), x.dtype)
            return jax.jvp(bend, (zero,), (jnp.ones_like(zero),))[1] / 6

        return jnp.mean(in_batches(one, 64)(points, directions) ** 2)

    def left(given: list[int]) -> float:
        rows = np.linalg.qr(factor[given].T)[0]
        free = noise[1] - (noise[1] @ rows) @ rows.T
        return float(cubic(points, jnp.asarray(free @ factor.T, points.dtype)))

    few: list[int] = []
    rest = left(few)
    while len(few) < min(MOST, dim - 1) and not rest <= ROUNDING:
        less, worst = min((left([*few, i]), i) for i in range(dim) if i not in few)
        if rest - less < min(max(LARGE * rest, GAIN if dim > MOST + 1 else 0.0), WEAK * rest):
            break
        few.append(worst)
        rest = less
    return tuple(few) if rest <= NORMAL else ()


@typed
def bijection(log_density: LogDensity, fit: Normal, few: tuple[int, ...]) -> Bijection:
    r"""The bijection of the top of this page: `few` coordinates come first in $y$, then the others.

    The search for the mode starts where the fit would have it, $\mathbb E[v \mid u]$. Where the curvature is not
    positive definite the distribution of the fit takes its place. It costs two products of the Hessian with each
    direction for every factorisation.

    Args:
        log_density: The log density.
        fit: A normal fit.
        few: The coordinates $u$.

    Returns:
        The bijection.

    Raises:
        ValueError: If `few` are not some but not all of the coordinates.

    Example:
        >>> from dds import targets
        >>> target = targets.funnel(3)
        >>> place = bijection(target.log_density, normal.standard(3), (0,))
        >>> flat = normal.pull_back(place, target.log_density)
        >>> [
        ...     round(
        ...         float(
        ...             flat(jnp.array([v, 1.0, 1.0])) - flat(jnp.array([v, 0.0, 0.0]))
        ...         ),
        ...         4,
        ...     )
        ...     for v in (-5.0, 5.0)
        ... ]
        [-1.0, -1.0]
    """
    dim = fit.mean.size
    good = len(set(few)) == len(few) and 0 < len(few) < dim and all(0 <= i < dim for i in few)
    require(good, "few", few, f"some of the coordinates 0 to {dim - 1}")
    u_at = np.array(few)
    v_at = np.setdiff1d(np.arange(dim), u_at)
    covariance = normal.factor(fit) @ normal.factor(fit).T
    own, mixed = covariance[np.ix_(u_at, u_at)], covariance[np.ix_(v_at, u_at)]
    slope = jnp.linalg.solve(own, mixed.T).T
    rest = covariance[np.ix_(v_at, v_at)] - slope @ mixed.T
    first = Normal(fit.mean[u_at], jnp.linalg.cholesky(own))
    plain = jnp.linalg.cholesky(jnp.linalg.inv(rest))

    def join(u: State, v: State) -> State:
        return jnp.zeros(dim, u.dtype).at[u_at].set(u).at[v_at].set(v)

    def given(u: State) -> tuple[State, tuple[Array, Array], Scalar]:
        """The mode, two lower factors of the precision there, and the log-determinant of the whole map."""

        def loss(v: State):
            return -log_density(join(u, v))

        def newton(v: State, _):
            rough, fine = _curvature(loss, v)
            slope = jax.scipy.linalg.solve_triangular(rough, jax.grad(loss)(v), lower=True)
            step = jax.scipy.linalg.cho_solve((fine, True), slope)
            return v - jax.scipy.linalg.solve_triangular(rough, step, lower=True, trans="T"), (v, rough, fine)

        start = fit.mean[v_at] + slope @ (u - first.mean)
        # One step more than counts: the curvature at the mode needs no second copy of the program then.
        _, visited = jax.lax.scan(newton, start, None, length=NEWTON + 1)
        mode, rough, fine = (leaf[-1] for leaf in visited)
        usable = jnp.isfinite(mode).all() & jnp.isfinite(rough).all() & jnp.isfinite(fine).all()
        mode, rough = jnp.where(usable, mode, start), jnp.where(usable, rough, plain)
        fine = jnp.where(usable, fine, jnp.eye(start.size, dtype=start.dtype))
        return (
            mode,
            (rough, fine),
            normal.log_determinant(first) - sum(jnp.sum(jnp.log(jnp.diagonal(factor))) for factor in (rough, fine)),
        )

    def forward(y: State) -> tuple[State, Scalar]:
        u = normal.reparameterise(first, y[: len(few)])
        mode, factors, log_determinant = given(u)
        away = y[len(few) :]
        for factor in reversed(factors):
            away = jax.scipy.linalg.solve_triangular(factor, away, lower=True, trans="T")
        return join(u, mode + away), log_determinant

    def inverse(x: State) -> tuple[State, Scalar]:
        mode, (rough, fine), log_determinant = given(x[u_at])
        away = fine.T @ (rough.T @ (x[v_at] - mode))
        return jnp.concatenate([normal.standardise(first, x[u_at]), away]), log_determinant

    return Bijection(dim, forward, inverse, 2 * (NEWTON + 1) * dim)


def _curvature(loss: Callable[[State], Scalar], v: State) -> tuple[Array, Array]:
    """Lower factors `A`, `B` of the Hessian at a point, `A B B' A'`.

    In a deep neck some directions are a million times as narrow as others, and what the entries of the Hessian say of
    the wide ones is lost in rounding. A first factor, with a little added to the diagonal, knows the directions; along
    its columns the products with the Hessian are exact.
    """
    hessian = jax.hessian(loss)(v)
    little = 8 * jnp.finfo(v.dtype).eps * jnp.diag(jnp.diagonal(hessian))
    rough = jnp.linalg.cholesky(hessian + little)
    columns = jax.scipy.linalg.solve_triangular(rough, jnp.eye(v.size, dtype=v.dtype), lower=True)
    products = jax.lax.map(lambda row: jax.jvp(jax.grad(loss), (v,), (row,))[1], columns)
    fine = columns @ products.T
    return rough, jnp.linalg.cholesky((fine + fine.T) / 2)
