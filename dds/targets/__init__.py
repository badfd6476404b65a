"""Target densities with known truth, and the way to make one of your own."""

from dds.targets.custom import from_log_density
from dds.targets.funnel import funnel
from dds.targets.gaussian import gaussian, gaussian_mixture

__all__ = ["from_log_density", "funnel", "gaussian", "gaussian_mixture"]
