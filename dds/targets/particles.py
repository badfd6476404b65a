r"""Particles that attract and repel each other, without their centre of mass: densities with many symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dds.checks import require, require_shape, typed
from dds.types import Normal, Scalar, State, Target

LOG_Z = {2: 7.260392993, 3: 17.167286946, 4: 29.667232233}
"""The true log Z of so many particles of the double well in the plane."""


@typed
def double_well_particles(count: int = 4) -> Target:
    r"""Particles in the plane, each pair of which would have one of two distances.

    With positions $r_1, \dots, r_n$ whose mean is zero, and $d_{ij} = |r_i - r_j|$,

    $$ \log \gamma = \sum_{i < j} \bigl(4\,(d_{ij} - 4)^2 - 0.9\,(d_{ij} - 4)^4\bigr). $$

    The coordinates are those of the positions in an orthonormal basis of the space of all with mean zero: first both
    coordinates of $(r_1 - r_2) / \sqrt 2$, then of $(r_1 + r_2 - 2 r_3) / \sqrt 6$, and so on. The density is the same
    for rotated, reflected and renumbered particles. Known as DW4 for four of them.

    Args:
        count: The number of particles `n`, at least 2.

    Returns:
        The target, of dimension $2 (n - 1)$, with `structure` from a point to the positions, an array of shape
        `(count, 2)`. For up to four particles `log_z` is exact, by quadrature; for more, it is not known.

    Raises:
        ValueError: If `count` is below 2.

    References:
        Köhler, Klein and Noé (2020), Equivariant Flows, for the energy, a sum over ordered pairs that is halved.

    Example:
        >>> target = double_well_particles()
        >>> target.dim
        6
        >>> assert target.structure is not None
        >>> target.structure(jnp.ones(6)).shape
        (4, 2)
    """
    require(count >= 2, "count", count, "at least 2")
    basis = _basis(count)
    dim = 2 * (count - 1)

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        squares = _squared_distances(basis, x.reshape(-1, 2))
        # The root has no gradient at zero.
        beyond = (jnp.sqrt(jnp.maximum(squares, jnp.finfo(x.dtype).tiny)) - 4) ** 2
        return -jnp.sum(beyond * (0.9 * beyond - 4))

    def structure(x: State) -> Float[Array, "count 2"]:
        return _positions(basis, x.reshape(-1, 2))

    start = Normal(jnp.zeros(dim), jnp.array(3.0))
    return Target(dim, log_density, log_z=LOG_Z.get(count), start=start, structure=structure)


@typed
def lennard_jones(count: int = 13, *, depth: float = 1.0) -> Target:
    r"""A cluster of particles in space with the potential of Lennard-Jones, in a harmonic trap.

    With positions $r_1, \dots, r_n$ whose mean is zero, and $d_{ij} = |r_i - r_j|$,

    $$ \begin{aligned} \log \gamma &= -\varepsilon \sum_{i < j} \bigl(d_{ij}^{-12} - 2\,d_{ij}^{-6}\bigr) \\
       &\quad - \frac12 \sum_i |r_i|^2. \end{aligned} $$

    The coordinates are those of `double_well_particles`, three for each difference. Known as LJ13 and LJ55, for so many
    particles. There are two conventions: Köhler et al. and Midgley et al. count each pair once, with depth 1; the code
    of Akhound-Sadegh et al. counts each pair twice, which is depth 2.

    The density of particles that nearly coincide underflows: closer than 0.004, or $5 \cdot 10^{-20}$ in double
    precision, the energy no longer rises, so that it and its gradient stay finite.

    Args:
        count: The number of particles `n`, at least 2.
        depth: The depth $\varepsilon$ of the well of a pair, positive.

    Returns:
        The target, of dimension $3 (n - 1)$, with `structure` from a point to the positions, an array of shape
        `(count, 3)`. Its `log_z` is not known.

    Raises:
        ValueError: If `count` is below 2 or `depth` is not positive.

    References:
        Köhler, Klein and Noé (2020), Equivariant Flows; Midgley, Stimper, Antorán, Mathieu, Schölkopf and
        Hernández-Lobato (2023), SE(3) Equivariant Augmented Coupling Flows; Akhound-Sadegh et al. (2024), Iterated
        Denoising Energy Matching.

    Example:
        >>> target = lennard_jones(2)
        >>> at_distance_one = jnp.array([0.5**0.5, 0.0, 0.0])
        >>> round(float(target.log_density(at_distance_one)), 4)
        0.75
    """
    require(count >= 2, "count", count, "at least 2")
    require(0 < depth < float("inf"), "depth", depth, "positive and finite")
    basis = _basis(count)
    dim = 3 * (count - 1)

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        squares = _squared_distances(basis, x.reshape(-1, 3))
        sixth = jnp.maximum(squares, jnp.finfo(x.dtype).max ** (-1 / 8)) ** -3
        return -depth * jnp.sum(sixth * (sixth - 2)) - 0.5 * jnp.sum(x**2)

    def structure(x: State) -> Float[Array, "count 3"]:
        return _positions(basis, x.reshape(-1, 3))

    return Target(dim, log_density, start=Normal(jnp.zeros(dim), jnp.array(1.5)), structure=structure)


def _basis(count: int) -> np.ndarray:
    """The orthonormal basis of Helmert of the numbers with mean zero, as columns."""
    rank = np.arange(1, count)
    columns = np.triu(np.ones((count, count - 1))) - rank * np.eye(count, count - 1, -1)
    return columns / np.sqrt(rank * (rank + 1))


def _positions(basis: np.ndarray, x: Float[Array, "free space"]) -> Float[Array, "count space"]:
    return jnp.matmul(jnp.asarray(basis, x.dtype), x, precision=jax.lax.Precision.HIGHEST)


def _squared_distances(basis: np.ndarray, x: Float[Array, "free space"]) -> Float[Array, " pairs"]:
    first, second = np.triu_indices(len(basis), 1)
    return jnp.sum(_positions(basis[first] - basis[second], x) ** 2, axis=1)
