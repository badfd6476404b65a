"""Denoising diffusion samplers: samples and normalising constants of unnormalised densities, as pure JAX functions."""

from dds import estimators, losses, networks, normal, ou, reversal, sampler, schedules, targets, training, types

__all__ = [
    "estimators",
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
]
__version__ = "0.1.0"
