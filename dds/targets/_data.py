"""The data of real posteriors, shipped with the package: `data/PROVENANCE.md` says where they come from."""

from importlib import resources

import numpy as np


def table(name: str) -> np.ndarray:
    """Reads one file of data.

    Args:
        name: Its name, without `.csv`.

    Returns:
        The rows below its header, in double precision.

    Example:
        >>> table("seeds").shape
        (21, 4)
    """
    with resources.files("dds.targets").joinpath("data", f"{name}.csv").open() as file:
        return np.loadtxt(file, delimiter=",", skiprows=1)
