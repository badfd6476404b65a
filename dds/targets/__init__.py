"""Target densities with known truth, and the way to make one of your own."""

from dds.targets.brownian import brownian, brownian_known_scales
from dds.targets.cox import cox_process
from dds.targets.custom import from_log_density, from_numpyro, from_prior
from dds.targets.digits import nice_digits, vae_digits
from dds.targets.forty_modes import forty_modes, forty_modes_means
from dds.targets.funnel import funnel
from dds.targets.gaussian import gaussian, gaussian_mixture
from dds.targets.law_school import law_school
from dds.targets.logistic import german_credit, ionosphere, logistic_regression, sonar
from dds.targets.many_well import double_wells, many_well
from dds.targets.particles import double_well_particles, lennard_jones
from dds.targets.phi_four import phi_four
from dds.targets.rats import rats
from dds.targets.seeds import seeds
from dds.targets.student_mixture import student_mixture

__all__ = [
    "brownian",
    "brownian_known_scales",
    "cox_process",
    "double_well_particles",
    "double_wells",
    "forty_modes",
    "forty_modes_means",
    "from_log_density",
    "from_numpyro",
    "from_prior",
    "funnel",
    "gaussian",
    "gaussian_mixture",
    "german_credit",
    "ionosphere",
    "law_school",
    "lennard_jones",
    "logistic_regression",
    "many_well",
    "nice_digits",
    "phi_four",
    "rats",
    "seeds",
    "sonar",
    "student_mixture",
    "vae_digits",
]
