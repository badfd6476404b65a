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


def arrays(name: str) -> dict[str, np.ndarray]:
    """Reads one file of named arrays.

    Args:
        name: Its name, without `.npz`.

    Returns:
        The arrays by their names, in the precision that they are kept in.

    Example:
        >>> arrays("vae_digits")["image"].shape
        (64,)
    """
    with resources.files("dds.targets").joinpath("data", f"{name}.npz").open("rb") as file, np.load(file) as archive:
        return dict(archive)
