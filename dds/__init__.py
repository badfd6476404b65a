"""Denoising diffusion samplers: samples and normalising constants of unnormalised densities, as pure JAX functions."""

import importlib
from typing import Any

from dds import (
    adaptation,
    arviz,
    chains,
    choices,
    comparison,
    compiling,
    conditional,
    coordinates,
    devices,
    distances,
    estimators,
    evaluation,
    exploration,
    families,
    kernels,
    learned,
    losses,
    mixtures,
    modes,
    necks,
    networks,
    normal,
    origins,
    paths,
    probability_flow,
    recipes,
    references,
    remedies,
    replay,
    resampling,
    results,
    sampling,
    saving,
    schedules,
    search,
    smc,
    storage,
    tails,
    targets,
    training,
    trust,
    types,
)
from dds.arviz import to_arviz
from dds.comparison import compare
from dds.results import Result, draw, resample
from dds.sampling import sample
from dds.saving import load, save
from dds.targets import from_numpyro

__all__ = [
    "Result",
    "adaptation",
    "arviz",
    "chains",
    "choices",
    "compare",
    "comparison",
    "compiling",
    "conditional",
    "coordinates",
    "devices",
    "distances",
    "draw",
    "estimators",
    "evaluation",
    "exploration",
    "families",
    "figures",  # pyright: ignore[reportUnsupportedDunderAll]
    "from_numpyro",
    "kernels",
    "learned",
    "load",
    "losses",
    "mixtures",
    "modes",
    "necks",
    "networks",
    "normal",
    "origins",
    "paths",
    "plots",  # pyright: ignore[reportUnsupportedDunderAll]
    "probability_flow",
    "progress",  # pyright: ignore[reportUnsupportedDunderAll]
    "recipes",
    "references",
    "remedies",
    "replay",
    "resample",
    "resampling",
    "results",
    "sample",
    "sampling",
    "save",
    "saving",
    "schedules",
    "search",
    "smc",
    "storage",
    "tails",
    "targets",
    "to_arviz",
    "training",
    "trust",
    "types",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in ("figures", "plots", "progress"):
        raise AttributeError(f"module 'dds' has no attribute {name!r}")
    try:  # they need packages that nothing else does
        return importlib.import_module(f"dds.{name}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'dds-jax[cli]' brings it.", name=error.name) from error
