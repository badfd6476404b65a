"""Samples for ArviZ: equally weighted draws in chains, with what is known of them.

Needs the package arviz-base, which the rest of the library does not. It is a part of ArviZ 1; ArviZ 0 is not supported.
"""

from typing import Any

import jax
import numpy as np

from dds import evaluation, results, trust
from dds.checks import require, typed
from dds.results import Draws, Result
from dds.types import KeyArray


@typed
def to_arviz(key: KeyArray, result: Result | Draws, *, chains: int = 4, draws: int | None = None) -> Any:
    r"""Draws of equal weight as ArviZ 1 takes them, for its summaries and plots.

    Of $N$ samples with weights $w_n$, $m$ chains of $d$ draws take sample $n$ about $m d\, w_n / \sum_l w_l$ times,
    rounded up or down, in random order: copies do not stand side by side. The chains are a random division of these
    draws, not runs of their own.

    Args:
        key: The random key.
        result: The result, or weighted samples.
        chains: The number of chains, at least 1.
        draws: The number of draws of each chain, at least 1. By default all together are as many as the samples are
            worth; more are only more copies.

    Returns:
        An `xarray.DataTree`. Its group `posterior` has an array of shape `(chain, draw, ...)` for each leaf of the
        parameters, by the names of `dds.results.named`. Its group `sample_stats` has `log_weight`, the log weight of
        the sample that each draw is a copy of, as `result` has it: the draws have used it, and are not to be weighted
        again. Where `result` was resampled itself, of more paths, these are all equal. The attributes of the tree are
        the figures `log_z`, `log_z_standard_error`, `ess`, `samples` and `pareto_k` of `dds.evaluation.Report`, the
        `verdict`, and the library and its version. For weighted samples without a result they are those of the weights
        alone.

    Raises:
        ValueError: If there are no chains, no draws, fewer weighted samples than `dds.estimators.LEAST`, or these are
            worth less than a draw for each chain.
        ModuleNotFoundError: If arviz-base is not installed.

    Example:
        >>> import dds
        >>> import jax.numpy as jnp
        >>> like = {"mu": jnp.zeros(()), "theta": jnp.zeros(3)}
        >>> log_density = lambda x: -(x["mu"] ** 2) - jnp.sum(x["theta"] ** 2)
        >>> result = dds.sample(jax.random.key(0), log_density, like, paths=400)
        >>> data = to_arviz(jax.random.key(1), result, draws=50)
        >>> data["posterior"]["theta"].shape
        (4, 50, 3)
        >>> round(data.attrs["log_z"], 1)  # 2 log(pi)
        2.3
    """
    try:
        from arviz_base import from_dict
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install arviz-base brings it.", name=error.name) from error
    from dds import __version__

    require(chains >= 1, "chains", chains, "at least 1")
    known = isinstance(result, Result)
    report = result.report if known else evaluation.summarise(result.log_weights)
    if draws is None:
        enough = report.samples >= chains  # a number that is none is not enough
        require(
            enough, "result", f"samples worth {report.samples:.0f}", f"samples worth {chains} or more, for the chains"
        )
        draws = int(report.samples) // chains
    require(draws >= 1, "draws", draws, "at least 1")
    weighted = Draws((result.samples, result.log_weights), result.log_weights)
    drawn = results.resample(key, weighted, chains * draws)
    samples, log_weights = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(chains, draws, *leaf.shape[1:]), drawn)
    attributes = {
        "log_z": report.log_z,
        "log_z_standard_error": report.log_z_standard_error,
        "ess": report.ess,
        "samples": report.samples,
        "pareto_k": report.pareto_k,
        "verdict": result.verdict if known else trust.verdict(report),
        "inference_library": "dds-jax",
        "inference_library_version": __version__,
    }
    groups = {"posterior": results.named(samples), "sample_stats": {"log_weight": log_weights}}
    return from_dict(groups, attrs={"/": attributes}, check_conventions=False)  # fewer draws than chains are fine
