"""Denoising diffusion samplers: samples and normalising constants of unnormalised densities, as pure JAX functions."""

from dds import (
    estimators,
    exploration,
    learned,
    losses,
    networks,
    normal,
    ou,
    reversal,
    sampler,
    schedules,
    targets,
    training,
    types,
    whitening,
)

__all__ = [
    "estimators",
    "exploration",
    "learned",
    "losses",
    "networks",
    "normal",
    "ou",
    "reversal",
    "sampler",
    "schedules",
    "targets",
    "training",
    "types",
    "whitening",
]
__version__ = "0.1.0"
