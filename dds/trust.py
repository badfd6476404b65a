"""What follows from the figures of a sampler: what speaks against them, and a plain sentence.

`findings` compares each figure of a `dds.evaluation.Report` with its limit and says what follows, and `verdict` puts it
in words.
"""

import math
from typing import NamedTuple

import numpy as np

from dds import estimators
from dds.checks import typed
from dds.evaluation import RARE, Report, is_reliable

MISSED = 0.03
"""The share of points found otherwise with weights as large as theirs, above which a part of the target is missed.

It should be `RARE`; the rest allows for tempered particles that are not quite independent.
"""

MISSED_EXACT = 0.02
"""The same for exact samples, which are independent."""

MISSED_MODES = 0.005
"""The share of the target in modes that the sampler does not cover, above which nothing is to be trusted."""

MISSED_TAILS = 0.005
"""The share of the target farther out than any draw, above which nothing is to be trusted."""

ESCAPED = 0.0002
"""The least share of chains that leave where paths are, above which nothing is to be trusted: seven of 4,096 are."""

NAN_SHARE = 0.01
"""The share of paths that end where the density is not a number, up to which they are taken for paths far out."""

MINIMAL_SAMPLES = 100
"""The effective number of samples below which a standard error is itself too uncertain to be quoted."""


class Finding(NamedTuple):
    """One figure and its limit.

    Attributes:
        name: The name of the figure, that of `Report` where it is one.
        value: The figure.
        limit: The limit.
        holds: Whether it is on the good side of it: a figure that is not a number is not.
        consequence: What follows if it is not, a clause of a sentence.
    """

    name: str
    value: float
    limit: float
    holds: bool
    consequence: str


@typed
def findings(report: Report) -> list[Finding]:
    r"""The figures that matter for trust, each with its limit and what follows if it does not hold.

    Every limit is written as what must hold for trust, so that a figure that is not a number speaks against it.

    Args:
        report: The figures.

    Returns:
        The findings, those that hold as well. The limit on Pareto k is that of the reference,
        $\min(1 - 1 / \log_{10} N, 0.7)$; a heavy tail that carries next to nothing, or that the bridge has mended, is
        no reason for doubt.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry (2024), section 3.2.4.

    Example:
        >>> from dds.evaluation import summarise
        >>> [
        ...     finding.name
        ...     for finding in findings(
        ...         summarise(np.zeros(1000, np.float32), log_z_true=1.0)
        ...     )
        ...     if not finding.holds
        ... ]
        ['error of log Z']
    """
    return _by_weights(report) + _by_other_means(report) + _by_other_estimates(report)


@typed
def is_estimated(report: Report) -> bool:
    """Whether the weights themselves allow an estimate of log Z: none is broken, enough count, and the tail is light.

    Args:
        report: The figures.

    Returns:
        Whether so.

    Example:
        >>> from dds.evaluation import summarise
        >>> is_estimated(summarise(np.zeros(1000, np.float32)))
        True
    """
    return all(finding.holds for finding in _by_weights(report))


def _by_weights(report: Report) -> list[Finding]:
    """What the weights of the sampler's own paths say, with the bridge where there is one."""
    # Weights of zero are legitimate, and make the ELBO minus infinity.
    sound = np.isfinite([report.log_z, report.log_z_standard_error]).all() and report.elbo < np.inf
    found = [
        Finding("finite", float(sound), 1.0, bool(sound), "some weights are infinite or not a number, or all are zero")
    ]
    broken = f"{report.nan_share:.1%} of the paths end where the density is not a number, and count as of weight zero"
    found.append(Finding("nan_share", report.nan_share, NAN_SHARE, bool(report.nan_share <= NAN_SHARE), broken))
    limit = estimators.pareto_limit(report.paths)
    light = is_reliable(report.pareto_k, report.heavy_share, report.paths)
    if report.log_z_of_bridge is None or not sound:
        heavy = f"Pareto k is {report.pareto_k:.2f}, above {limit:.2f}: a few paths carry the estimate"
        found.append(Finding("pareto_k", report.pareto_k, limit, light, heavy))
    few = f"{report.paths} paths are worth only {_count(report.samples)} samples"
    enough = report.samples >= MINIMAL_SAMPLES
    found.append(Finding("samples", report.samples, MINIMAL_SAMPLES, bool(enough), few))
    if report.log_z_of_bridge is not None:
        apart = abs(report.log_z_of_bridge - report.log_z_of_weights)
        limit = max(0.1, 4 * report.log_z_of_weights_standard_error)
        unlike = (
            f"log Z is {report.log_z_of_weights:.3f} by the weights, but {report.log_z_of_bridge:.3f} by the bridge"
        )
        found.append(Finding("bridge", apart, limit, bool(apart <= limit), unlike))
    return found


def _by_other_means(report: Report) -> list[Finding]:
    """What is said by exact samples, by modes and particles found otherwise, and by the density farther out."""
    found, where = [], f", {report.where}" if report.where else ""
    if report.missed_exact is not None:
        share, whose = report.missed_exact, "exact samples"
        found.append(Finding("missed_exact", share, MISSED_EXACT, bool(share <= MISSED_EXACT), _seldom(share, whose)))
    if report.missed_modes is not None:
        share = report.missed_modes
        missed = f"about {share:.1%} of the mass, and so of Z, lies in modes that the paths hardly visit{where}"
        found.append(Finding("missed_modes", share, MISSED_MODES, bool(share <= MISSED_MODES), missed))
    if report.missed_tails is not None:
        share = report.missed_tails
        missed = f"at least {share:.1%} of the mass, and so of Z, lies farther out than any path ends{where}"
        found.append(Finding("missed_tails", share, MISSED_TAILS, bool(share <= MISSED_TAILS), missed))
    if report.escaped is not None:
        share = report.escaped
        missed = f"chains from the samples go on to where no path ends, at least {share:.2%} of the mass{where}"
        found.append(Finding("escaped", share, ESCAPED, bool(share <= ESCAPED), missed))
    if report.missed_mass is not None and report.settled is not False:
        share, missed = report.missed_mass, _seldom(report.missed_mass, "points found by other means") + where
        found.append(Finding("missed_mass", share, MISSED, bool(share <= MISSED), missed))
    return found


def _seldom(share: float, points: str) -> str:
    if not np.isfinite(share):
        return f"the check by {points} failed"
    seldom = "the sampler hardly visits where they are"
    return f"of {points} {share:.1%} have weights that {RARE:.0%} should have: {seldom}"


def _by_other_estimates(report: Report) -> list[Finding]:
    """What other samplers' log Z says, and the truth where it is known."""
    found = []
    if report.log_z_of_another is not None:
        # What a sampler misses makes its estimate too small, hardly ever too large.
        above = report.log_z_of_another - report.log_z
        limit = 4 * math.hypot(report.log_z_standard_error, report.log_z_of_another_standard_error)
        more = f"another sampler found more, log Z {report.log_z_of_another:.3f} instead of {report.log_z:.3f}"
        found.append(Finding("log_z_of_another", above, limit, bool(above <= limit), more))
    if report.log_z_true is not None:
        error = abs(report.log_z - report.log_z_true)
        tolerance = 4 * math.hypot(report.log_z_standard_error, report.log_z_true_error)
        tolerance += 1e-5 * (1 + abs(report.log_z_true))  # rounding
        known = np.isfinite([report.log_z_true, report.log_z_true_error]).all()
        off = (
            f"log Z is off the truth by {error:.3g}" if known else "the true log Z or its error is not a finite number"
        )
        found.append(Finding("error of log Z", error, tolerance, bool(known and error <= tolerance), off))
    return found


def _count(samples: float) -> str:
    return f"{samples:.0f}" if np.isfinite(samples) else "no"


@typed
def verdict(report: Report) -> str:
    """Says to what precision to trust the figures, or why not.

    Args:
        report: The figures.

    Returns:
        A sentence that begins with "Trust" or "Do not trust".

    Example:
        >>> from dds.evaluation import summarise
        >>> verdict(summarise(np.zeros(1000, np.float32), log_z_true=1.0))
        'Do not trust log Z and the weighted samples: log Z is off the truth by 1.'
    """
    if reasons := [finding.consequence for finding in findings(report) if not finding.holds]:
        return f"Do not trust log Z and the weighted samples: {'; '.join(reasons)}."
    within = f"Trust log Z to within {max(2 * report.log_z_standard_error, 1e-4):.2g} (two standard errors)"
    worth = f"the weighted samples, worth {report.samples:.0f} independent ones"
    if report.missed_exact is not None:
        return f"{within} and {worth}, also as seen from exact samples."
    caveat = "without exact samples nothing here can show a mode that every path missed"
    if report.missed_mass is not None or report.missed_modes is not None:
        caveat = "a part of the target that neither the paths nor the search by other means found cannot show"
    if report.nan_share > 0:
        caveat += f"; {report.nan_share:.2%} of the paths end where the density is not a number, and count as zero"
    if report.settled is False:
        caveat += "; tempered particles, one of these means, did not arrive at the target, and say nothing"
    return f"{within} and {worth}, for the modes that were found; {caveat}."
