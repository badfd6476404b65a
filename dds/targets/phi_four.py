r"""The field of the theory called phi to the fourth on a chain: two phases, and walls between them that are rare."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dds.checks import require, require_shape, typed
from dds.targets._table import tabulated
from dds.types import KeyArray, Scalar, State, Target

_Function = Callable[[Any], Any]

POINTS = 1000
"""The largest number of points of the grid that the truth is computed on."""


@typed
def phi_four(
    sites: int = 16, *, coupling: float = 0.1, beta: float = 10.0, field: float = 0.0, periodic: bool = True
) -> Target:
    r"""The $\varphi^4$ field on a chain of sites, at the inverse temperature $\beta$.

    With $\kappa = a N$, where `a` is the coupling and `N` the number of sites,

    $$ \begin{aligned} \log \gamma(\varphi) &= -\frac{\beta \kappa}2 \sum_i (\varphi_{i+1} - \varphi_i)^2 \\
       &\quad - \frac\beta\kappa \sum_{i=1}^N \Bigl(\frac14 (1 - \varphi_i^2)^2 + b\,\varphi_i\Bigr). \end{aligned} $$

    On a ring the first sum is over all sites, with $\varphi_{N+1} = \varphi_1$; otherwise it also has the bonds to the
    two ends, $\varphi_0 = \varphi_{N+1} = 0$.

    There are two modes, the fields near 1 everywhere and those near -1, and between them fields with two walls, each of
    energy near $2 \sqrt 2 / 3$. By default the modes have the same weight, and 0.08% of the fields have both signs.

    The energy is that of the code of the article, where the chain ends in zeros and the options are by default those of
    `phi_four(10, beta=20, periodic=False)`. The ring, its number of sites and its temperature are ours.

    Args:
        sites: The number of sites `N`, at least 2.
        coupling: The coupling `a`, positive.
        beta: The inverse temperature, positive.
        field: The field `b`, of size below $2 / \sqrt{27} \approx 0.385$, where the second well goes.
        periodic: Whether the chain is a ring, or ends in zeros.

    Returns:
        The target, of dimension `N`: `log_z` is exact, by powers of the transfer matrix, and so is the sampler but for
        rounding and, on a ring, the interpolation of a fine table.

    Raises:
        ValueError: If `sites` is below 2, `coupling` or `beta` is not positive, `field` is too large, or the bonds or
            the wells are so narrow that the matrix would be too large.

    References:
        Gabrié, Rotskoff and Vanden-Eijnden (2022), Adaptive Monte Carlo augmented with normalizing flows.

    Example:
        >>> target = phi_four()
        >>> target.log_z is not None and round(target.log_z, 4)
        -13.3889
    """
    require(sites >= 2, "sites", sites, "at least 2")
    require(0 < coupling < float("inf"), "coupling", coupling, "positive and finite")
    require(0 < beta < float("inf"), "beta", beta, "positive and finite")
    require(abs(field) < 2 / np.sqrt(27), "field", field, "of a size below 0.385, for two wells")
    stiffness, depth, field = float(beta * coupling * sites), float(beta / (coupling * sites)), float(field)

    def bond(difference):
        return -stiffness / 2 * difference**2

    def potential(x):
        return depth * ((1 - x**2) ** 2 / 4 + field * x)

    # To be `r` beyond the wells at one site costs at least the action of a continuous field, without a field of its own
    # sqrt(2) beta (r^2 + r^3 / 3); with one, wells move by less than 0.16. The step is a part of the width of what is
    # summed: in a well, or where a shallow potential has risen by a few units.
    action = 80 / (np.sqrt(2) * beta)
    width = 1.2 + min(np.sqrt(action), np.cbrt(3 * action))
    precision = 2 * stiffness + 6 * depth + 12 * np.sqrt(depth)
    points = 2 * int(np.ceil(width * np.sqrt(precision) / 0.6)) + 1
    expected = f"nearer to {1 / sites:.3g}, or beta smaller, for a grid of at most {POINTS} points"
    require(points <= POINTS, "coupling", coupling, expected)
    grid = np.linspace(-width, width, points)
    log_z, draw = _by_transfer(grid, bond, potential, sites, periodic)

    def log_density(x: State) -> Scalar:
        require_shape(x, sites)
        differences = jnp.diff(jnp.append(x, x[:1]) if periodic else jnp.pad(x, 1))
        return jnp.sum(bond(differences)) - jnp.sum(potential(x))

    def sample(key: KeyArray) -> State:
        first_key, key = jax.random.split(key)
        if not periodic:
            return _bridge(key, jnp.zeros(()), sites, grid, bond, potential)
        first = draw(first_key, 1)[0]
        return jnp.append(first, _bridge(key, first, sites - 1, grid, bond, potential))

    return Target(sites, log_density, sample, log_z)


def _by_transfer(grid: np.ndarray, bond: _Function, potential: _Function, sites: int, periodic: bool):
    """Powers of the transfer matrix: log Z, and draws of one site of a ring.

    The trapezoidal rule, exact to rounding: a sum over a grid is the integral, wherever the grid begins.
    """
    step, middle = grid[1] - grid[0], len(grid) // 2
    lowest = np.min(potential(grid))
    roots = np.exp((lowest - potential(grid)) / 2)
    bonds = np.exp(bond(np.subtract.outer(grid, grid)))
    values, vectors = np.linalg.eigh(step * roots[:, None] * bonds * roots[None, :])
    ratios = np.clip(values / values[-1], 0, None)
    log_largest = np.log(values[-1]) - lowest
    if periodic:
        log_z = sites * log_largest + np.log(np.sum(ratios**sites))
    else:
        between = vectors[middle] ** 2 @ ratios ** (sites + 1)
        log_z = (sites + 1) * log_largest + np.log(between / step) + potential(0.0)

    # The diagonal of the power of the matrix, between the points of the grid.
    places = np.linspace(grid[0], grid[-1], 8_001)
    half = np.exp(bond(np.subtract.outer(places, grid)) + (lowest - potential(places)[:, None]) / 2)
    kept = ratios > 1e-16
    density = (half @ (roots[:, None] * vectors[:, kept])) ** 2 @ ratios[kept] ** (sites - 2)
    return float(log_z), tabulated(places, density)[1]


def _bridge(key: KeyArray, end: Scalar, count: int, grid: np.ndarray, bond: _Function, potential: _Function) -> State:
    """Draws the sites between two equal ends, backward messages first.

    Each site has a grid of its own, moved by a random part of a step: sums over any of them are integrals, so a draw
    among its points is one of the density.
    """
    move_key, key = jax.random.split(key)
    moves = (grid[1] - grid[0]) * jax.random.uniform(move_key, (count,), end.dtype)
    nodes = jnp.asarray(grid, end.dtype)
    matrix = jnp.asarray(np.exp(bond(np.subtract.outer(grid, grid))), end.dtype)

    def back(later, move):
        later_move, message = later
        tilt = -2 * bond(1.0) * (move - later_move) * nodes  # what the moves change in the bonds, but for a constant
        largest = jnp.max(message + tilt)
        passed = jnp.matmul(matrix, jnp.exp(message + tilt - largest), precision=jax.lax.Precision.HIGHEST)
        message = jnp.log(passed) + largest - tilt - potential(nodes + move)
        return (move, message), message

    last = bond(nodes + moves[-1] - end) - potential(nodes + moves[-1])
    _, messages = jax.lax.scan(back, (moves[-1], last), moves[:-1], reverse=True)

    def ahead(place, row):
        move, message, key = row
        here = nodes + move
        chosen = here[jax.random.categorical(key, message + bond(here - place))]
        return chosen, chosen

    rows = moves, jnp.concatenate([messages, last[None]]), jax.random.split(key, count)
    return jax.lax.scan(ahead, end, rows)[1]
