r"""A log-Gaussian Cox process: a field of intensities given points, in as many dimensions as wanted."""

import jax
import jax.numpy as jnp
import numpy as np

from dds.checks import require, require_shape, typed
from dds.targets._data import table
from dds.types import Scalar, State, Target

VARIANCE = 1.91
"""The variance of the log intensity at a place."""


@typed
def cox_process(grid: int = 40) -> Target:
    r"""The log-Gaussian Cox process of the Finnish pines: 126 saplings in the unit square, on a grid of cells.

    With $n_i$ saplings in cell $i$ of area $a = 1 / m^2$, and $\delta_{ij}$ the distance of two cells,

    $$\gamma(x) = \mathcal N(x; \mu 1, C) \prod_i \exp(x_i n_i - a e^{x_i}), \qquad
    C_{ij} = 1.91\, e^{-33\, \delta_{ij}}, \qquad \mu = \log 126 - 1.91 / 2.$$

    The coordinates are the log intensities of the cells, row after row: cell $(k, l)$, the `k`-th along the first axis
    of the window and the `l`-th along the second, is coordinate $k m + l$. Published results in 1600 dimensions have
    $m = 40$.

    Args:
        grid: The number of cells `m` along a side, at least 2. A density holds a matrix of `grid**4` entries.

    Returns:
        The target, of dimension `grid**2`. Its `log_z` is not known exactly: at `grid` 40, annealed importance sampling
        gives 501.79 with standard error 0.05.

    Raises:
        ValueError: If `grid` is below 2.

    References:
        Møller, Syversveen and Waagepetersen (1998), for the model. The saplings were recorded by Kellomäki and prepared
        by Penttinen. Files of them with 127 rows, or with points stretched to fill the square, make other targets, with
        another $Z$.

    Example:
        >>> target = cox_process(8)
        >>> round(float(target.log_density(jnp.full(64, jnp.log(126)))), 2)
        389.54
    """
    require(grid >= 2, "grid", grid, "at least 2")
    dim = grid**2
    window = (table("finnish_pines") + np.array([5, 8])) / 10
    counts, _, _ = np.histogram2d(*window.T, bins=grid, range=[[0, 1], [0, 1]])

    cells = np.stack(np.divmod(np.arange(dim), grid), axis=1) / grid
    distances = np.linalg.norm(cells[:, None] - cells, axis=2)
    factor = np.linalg.cholesky(VARIANCE * np.exp(-33 * distances))
    # A product with the inverse factor is a plain matrix product, for which solving a triangular system is no match.
    whitening = np.linalg.solve(factor, np.eye(dim))
    log_normaliser = float(-np.log(np.diagonal(factor)).sum() - 0.5 * dim * np.log(2 * np.pi))
    mean = float(np.log(len(window))) - VARIANCE / 2

    def log_density(x: State) -> Scalar:
        require_shape(x, dim)
        # Accelerators multiply matrices of single precision with fewer digits unless told not to.
        noise = jnp.matmul(jnp.asarray(whitening, x.dtype), x - mean, precision=jax.lax.Precision.HIGHEST)
        likelihood = jnp.sum(x * jnp.asarray(counts.ravel(), x.dtype) - jnp.exp(x) / dim)
        return likelihood - 0.5 * jnp.sum(noise**2) + log_normaliser

    return Target(dim, log_density)
