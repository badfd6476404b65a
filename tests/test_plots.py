import itertools
import os
import subprocess
import sys
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from matplotlib import rc_context
from matplotlib.colors import LogNorm
from PIL import Image
from scipy.stats import norm

from dds import estimators, evaluation, figures, plots, results, targets

NORMAL = targets.gaussian(jnp.array([1.0, -2.0]), jnp.array([[1.0, 0.3], [0.3, 0.5]]))


def integral(grid):
    return grid.density.sum() * (grid.x[1] - grid.x[0]) * (grid.y[1] - grid.y[0])


def draw_normal(count, seed=0):
    return np.random.default_rng(seed).multivariate_normal([1.0, -2.0], [[1.0, 0.3], [0.3, 0.5]], size=count)


def first_axes(figure) -> Any:
    return figure.axes[0]


def legend(figure):
    return [text.get_text() for text in first_axes(figure).get_legend().get_texts()]


def open_image(path) -> Any:
    return Image.open(path)


@pytest.fixture(scope="module")
def funnel_samples():
    # Any two coordinates of funnel(10) that include the first.
    v, noise = np.random.default_rng(0).normal(size=(2, 20_000)) * np.array([[3.0], [1.0]])
    return np.stack([v, np.exp(v / 2) * noise], axis=1)


@pytest.fixture(scope="module")
def funnel_grid():
    target = targets.funnel(2)
    return plots.density_grid(target.log_density, (-9, 9), (-10, 10), log_z=target.log_z)


@pytest.fixture(scope="module")
def small_grid():
    return plots.density_grid(NORMAL.log_density, (-3, 5), (-5, 1), points=20)


def test_density_grid_of_a_normal_law_integrates_to_one():
    grid = plots.density_grid(NORMAL.log_density, (-6, 8), (-8, 4), log_z=0, points=60)
    assert integral(grid) == pytest.approx(1.0, abs=1e-5)


def test_density_grid_without_log_z_is_normalised_within_the_limits():
    known = plots.density_grid(NORMAL.log_density, (-6, 8), (-8, 4), log_z=0.0, points=30)
    shifted = plots.density_grid(lambda x: NORMAL.log_density(x) + 300.0, (-6, 8), (-8, 4), points=30)
    np.testing.assert_allclose(shifted.density, known.density, rtol=1e-3, atol=1e-6)
    part = plots.density_grid(NORMAL.log_density, (1, 2), (-2, -1), points=30)
    assert integral(part) == pytest.approx(1.0, rel=1e-12)


def test_density_grid_holds_the_density_at_the_centres_with_y_by_rows():
    grid = plots.density_grid(NORMAL.log_density, (-3, 5), (-5, 1), log_z=0.0, points=8, subdivisions=1)
    np.testing.assert_allclose(grid.x, -3 + 8 * (np.arange(8) + 0.5) / 8)
    np.testing.assert_allclose(grid.y, -5 + 6 * (np.arange(8) + 0.5) / 8)
    for row, column in ((0, 0), (2, 6), (7, 3)):
        point = jnp.array([grid.x[column], grid.y[row]])
        assert grid.density[row, column] == pytest.approx(float(jnp.exp(NORMAL.log_density(point))), rel=1e-4)


def test_subdivisions_are_means_of_the_finer_grid():
    fine = plots.density_grid(NORMAL.log_density, (-3, 5), (-5, 1), log_z=0.0, points=24, subdivisions=1)
    coarse = plots.density_grid(NORMAL.log_density, (-3, 5), (-5, 1), log_z=0.0, points=8, subdivisions=3)
    np.testing.assert_allclose(coarse.density, fine.density.reshape(8, 3, 8, 3).mean(axis=(1, 3)), rtol=1e-5)


def test_the_neck_of_the_funnel_is_on_the_grid(funnel_grid):
    # Given v its density is normalised: each column integrates to that of v where the picture is high enough.
    columns = funnel_grid.x < 1
    row_height = funnel_grid.y[1] - funnel_grid.y[0]
    expected = np.exp(-(funnel_grid.x**2) / 18) / np.sqrt(18 * np.pi)
    wide_enough = columns & (funnel_grid.x > -6)
    np.testing.assert_allclose(
        funnel_grid.density.sum(axis=0)[wide_enough] * row_height, expected[wide_enough], rtol=1e-3
    )
    assert (funnel_grid.density[:, columns].max(axis=0) > 1e-3 * funnel_grid.density.max()).all()


def test_density_zero_outside_of_a_support_is_drawn():
    grid = plots.density_grid(lambda x: jnp.where(x[0] > 0, 0.0, -jnp.inf), (-1, 1), (0, 1), points=10)
    np.testing.assert_allclose(grid.density[0], np.repeat([0.0, 1.0], 5))
    plots.heat_map(grid).savefig(os.devnull, format="png")


@pytest.mark.parametrize(
    ("log_density", "options", "message"),
    [
        (NORMAL.log_density, {"points": 1}, "points must be at least 2, got 1"),
        (NORMAL.log_density, {"subdivisions": 0}, "subdivisions must be at least 1, got 0"),
        (NORMAL.log_density, {"x_limits": (1, 1)}, r"x_limits must be finite and increasing, got \(1, 1\)"),
        (NORMAL.log_density, {"y_limits": (0, float("inf"))}, "y_limits must be finite and increasing"),
        (lambda x: x[0] * jnp.nan, {}, "log_density must be below infinity, got NaN"),
        (lambda x: x[0] * 0 - jnp.inf, {}, "log_density must be finite somewhere"),
        (lambda x: x, {}, r"the value of log_density must be a scalar, got an array of shape \(2,\)"),
    ],
)
def test_density_grid_errors(log_density, options, message):
    arguments = {"x_limits": (-1, 1), "y_limits": (-1, 1), "points": 5} | options
    with pytest.raises(ValueError, match=message):
        plots.density_grid(log_density, **arguments)


@pytest.mark.parametrize("bandwidth", [0, 0.7, 3.0])
def test_histogram_grid_integrates_to_one_and_is_not_negative(bandwidth):
    grid = plots.histogram_grid(draw_normal(500), (0, 3), (-3, 0), bandwidth=bandwidth)
    assert integral(grid) == pytest.approx(1.0, rel=1e-12)
    assert grid.density.min() >= 0


def test_histogram_grid_of_weighted_samples_is_that_of_repeated_ones():
    samples = draw_normal(50)
    times = np.arange(50) % 4
    repeated = plots.histogram_grid(np.repeat(samples, times, axis=0), (-3, 5), (-5, 1))
    with np.errstate(divide="ignore"):
        log_weights = np.log(times) + 700.0
    weighted = plots.histogram_grid(samples, (-3, 5), (-5, 1), log_weights=log_weights)
    np.testing.assert_allclose(weighted.density, repeated.density, rtol=1e-9, atol=1e-12)


def test_histogram_grid_puts_a_sample_into_its_cell():
    grid = plots.histogram_grid(np.array([[0.1, 2.9]]), (0, 1), (0, 3), bins=3, bandwidth=0)
    expected = np.zeros((3, 3))
    expected[2, 0] = 3.0
    np.testing.assert_allclose(grid.density, expected)


def test_histogram_grid_smooths_by_the_gaussian_kernel():
    grid = plots.histogram_grid(np.zeros((1, 2)), (-1, 1), (-1, 1), bins=41, bandwidth=2.0)
    middle = grid.density[20] / grid.density[20, 20]
    np.testing.assert_allclose(middle[15:26], np.exp(-0.125 * np.arange(-5, 6) ** 2), rtol=1e-6)
    np.testing.assert_allclose(grid.density, grid.density.T, rtol=1e-12)


def test_histogram_of_ten_dimensions_agrees_with_the_density_of_two(funnel_samples):
    window = ((-9, 9), (-10, 10))
    histogram = plots.histogram_grid(funnel_samples, *window, bins=20, bandwidth=0)
    exact = plots.density_grid(targets.funnel(2).log_density, *window, points=20, subdivisions=20)
    share = exact.density / exact.density.sum()
    distance = np.abs(histogram.density / histogram.density.sum() - share).sum()
    # The mean of the distance is at most the first term; five of McDiarmid's deviations are the second.
    inside = 0.9 * len(funnel_samples)
    assert distance < np.sqrt(share / inside).sum() + 5 / np.sqrt(inside)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 1}, "bins must be at least 2, got 1"),
        ({"bandwidth": -1.0}, "bandwidth must be at least 0 and finite, got -1.0"),
        ({"x_limits": (2, 1)}, "x_limits must be finite and increasing"),
        ({"x_limits": (2, 3)}, "samples must be within the limits"),
        (
            {"log_weights": np.array([0.0, np.nan])},
            "log_weights must be below infinity, got NaN or .infinity at 1 of 2",
        ),
        ({"log_weights": np.full(2, -np.inf)}, "samples must be within the limits with a weight above 0"),
    ],
)
def test_histogram_grid_errors(options, message):
    arguments = {"x_limits": (-1, 1), "y_limits": (-1, 1)} | options
    with pytest.raises(ValueError, match=message):
        plots.histogram_grid(np.zeros((2, 2)), **arguments)


def test_limits_are_the_central_quantiles_and_a_margin():
    values = np.arange(1001.0)
    x_limits, y_limits = plots.limits(np.stack([values, 10 - values], axis=1), coverage=0.9, margin=0.1)
    assert x_limits == pytest.approx((50 - 90, 950 + 90))
    assert y_limits == pytest.approx((10 - 950 - 90, 10 - 50 + 90))


def test_limits_ignore_far_tails_and_points_that_are_not_finite(funnel_samples):
    samples = draw_normal(2000)
    spoilt = np.concatenate([samples, [[1e30, 0.0], [0.0, -1e30], [np.nan, 0.0], [0.0, np.inf]]])
    np.testing.assert_allclose(plots.limits(spoilt), plots.limits(samples), atol=0.3)
    (x_low, x_high), (y_low, y_high) = plots.limits(funnel_samples[:2000], margin=0.0)
    assert -12 < x_low < x_high < 12
    assert -60 < y_low < y_high < 60


def test_limits_of_a_coordinate_that_never_varies_increase():
    assert plots.limits(jnp.array([[3.0, 0.0]])) == ((1.5, 4.5), (-0.5, 0.5))


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (np.zeros((3, 2)), {"coverage": 0.0}, r"coverage must be in \(0, 1\], got 0.0"),
        (np.zeros((3, 2)), {"margin": -1}, "margin must be at least 0 and finite, got -1"),
        (np.full((3, 2), np.nan), {}, "samples must be finite, got 3 of which none is"),
    ],
)
def test_limits_errors(samples, options, message):
    with pytest.raises(ValueError, match=message):
        plots.limits(samples, **options)


def test_scatter_has_the_ranges_of_the_reference_and_counts_what_it_draws():
    reference, samples = draw_normal(400), 3 * draw_normal(300, seed=1)
    figure = plots.scatter(samples, reference, names=("DDS", "truth"))
    axes = first_axes(figure)
    x_limits, y_limits = plots.limits(reference)
    assert (axes.get_xlim(), axes.get_ylim()) == (x_limits, y_limits)

    drawn = [np.asarray(layer.get_offsets()) for layer in axes.collections]
    np.testing.assert_allclose(drawn[0], reference)
    np.testing.assert_allclose(drawn[1], samples)
    low, high = np.transpose([x_limits, y_limits])
    outside = [(~((low <= points) & (points <= high)).all(axis=1)).sum() for points in drawn]
    assert legend(figure) == [f"truth (400, {outside[0]} outside)", f"DDS (300, {outside[1]} outside)"]


def test_scatter_alone_and_with_limits_given():
    figure = plots.scatter(jnp.zeros((5, 2)), x_limits=(-1, 1), labels=("v", "x_10"))
    axes = first_axes(figure)
    assert axes.get_xlim() == (-1, 1)
    assert axes.get_ylim() == (-0.5, 0.5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$v$", "$x_{10}$")
    assert legend(figure) == ["sampler (5)"]


def test_scatter_errors():
    with pytest.raises(ValueError, match="y_limits must be finite and increasing"):
        plots.scatter(np.zeros((5, 2)), y_limits=(1, -1))


def test_heat_map_shows_the_window_of_the_grid_whatever_the_samples(funnel_grid, funnel_samples):
    figure = plots.heat_map(funnel_grid, funnel_samples[:500], decades=5)
    axes, bar = figure.axes
    np.testing.assert_allclose([axes.get_xlim(), axes.get_ylim()], [(-9, 9), (-10, 10)])
    norm = axes.images[0].norm
    assert isinstance(norm, LogNorm)
    assert norm.vmax == funnel_grid.density.max()
    assert norm.vmin == pytest.approx(1e-5 * funnel_grid.density.max())
    assert bar.get_ylabel() == "density"


def test_heat_map_on_a_linear_scale(small_grid):
    norm = plots.heat_map(small_grid, decades=None).axes[0].images[0].norm
    assert (norm.vmin, norm.vmax) == (0, small_grid.density.max())


@pytest.mark.parametrize("picture", [plots.heat_map, plots.surface])
def test_density_errors(picture, small_grid):
    x, y, density = small_grid
    with pytest.raises(ValueError, match="decades must be positive and finite, or None, got 0"):
        picture(small_grid, decades=0)
    with pytest.raises(ValueError, match=r"the shape of grid.density must be \(19, 20\)"):
        picture(plots.Grid(x, y[1:], density))
    for bad in (-density, np.zeros_like(density), density * np.nan):
        with pytest.raises(ValueError, match=r"grid.density must be finite, at least 0 and somewhere positive"):
            picture(plots.Grid(x, y, bad))


def test_surface_height_is_the_density_or_its_logarithm(small_grid):
    plain = first_axes(plots.surface(small_grid, labels=("mass", "x_2")))
    top = small_grid.density.max()
    assert plain.get_zlim()[1] == pytest.approx(top, rel=0.1)
    assert (plain.get_xlabel(), plain.get_ylabel(), plain.get_zlabel()) == ("mass", "$x_{2}$", "density")
    low, high = first_axes(plots.surface(small_grid, decades=3)).get_zlim()
    assert (low, high) == pytest.approx((np.log10(top) - 3, np.log10(top)), abs=0.2)


def test_training_history_leaves_out_what_is_not_finite_and_says_so():
    losses = np.array([1.0, np.nan, 3.0, np.inf, -np.inf, 5.0])
    figure = plots.training_history(losses, window=3)
    raw, mean = first_axes(figure).lines
    np.testing.assert_array_equal(raw.get_xdata(), [1, 3, 6])
    np.testing.assert_array_equal(raw.get_ydata(), [-1, -3, -5])
    np.testing.assert_allclose(mean.get_ydata(), [-1, -3, -5])
    assert legend(figure) == ["each update (3 not finite, left out)", "running mean of 3"]


def test_training_history_running_mean():
    losses = -np.arange(10.0)
    mean = first_axes(plots.training_history(losses, window=3)).lines[1].get_ydata()
    np.testing.assert_allclose(mean, [0.5, *range(1, 9), 8.5])
    whole = plots.training_history(losses, window=1000)
    assert legend(whole) == ["each update", "running mean of 10"]
    assert legend(plots.training_history(np.zeros(500)))[1] == "running mean of 10"


def test_training_history_range_forgets_the_first_wild_updates_and_holds_log_z():
    losses = np.concatenate([np.geomspace(1e30, 10.0, 50), 2 + 0.1 * np.sin(np.arange(950))])
    figure = plots.training_history(losses, log_z=-1.0)
    axes = first_axes(figure)
    low, high = axes.get_ylim()
    assert -2.5 < low < -2.09
    assert -1.0 < high < -0.5
    assert axes.lines[2].get_ydata()[0] == -1.0
    figure.savefig(os.devnull, format="png")


@pytest.mark.parametrize(("bound", "sign", "label"), [("ELBO", -1, "lower"), ("EUBO", 1, "upper")])
def test_training_history_of_either_bound(bound, sign, label):
    axes = first_axes(plots.training_history(np.array([3.0, 2.0, 1.5]), log_z=0.0, window=1, bound=bound))
    for line in axes.lines[:2]:
        np.testing.assert_array_equal(line.get_ydata(), sign * np.array([3.0, 2.0, 1.5]))
    assert axes.lines[2].get_ydata()[0] == 0.0
    assert axes.get_ylabel() == f"evidence {label} bound"


@pytest.mark.parametrize("losses", [np.array([2.0]), np.full(30, 7.0), jnp.ones(5)])
def test_training_history_of_a_constant_has_a_range(losses):
    low, high = plots.training_history(losses).axes[0].get_ylim()
    assert low < -float(losses[0]) < high


def test_training_history_errors():
    with pytest.raises(ValueError, match="losses must be finite, got 2 of which none is"):
        plots.training_history(np.array([np.nan, np.inf]))
    with pytest.raises(ValueError, match="losses must be finite, got 0 of which none is"):
        plots.training_history(np.array([]))
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        plots.training_history(np.zeros(3), window=0)
    with pytest.raises(ValueError, match="bound must be 'ELBO' or 'EUBO', got 'elbo'"):
        plots.training_history(np.zeros(3), bound="elbo")


def test_animation_is_small_quick_and_holds_its_last_frame(tmp_path, funnel_grid, funnel_samples):
    random = np.random.default_rng(0)
    start, end = 3 * random.normal(size=(500, 2)), funnel_samples[:500]
    share = np.linspace(0, 1, 65)[:, None, None]
    states = (1 - share) * start + share * end + (1 - share) * 0.3 * random.normal(size=(65, 500, 2)).cumsum(axis=0)
    states[:, 0] = np.nan

    path = tmp_path / "particles.gif"
    begin = time.process_time()
    plots.animate(path, states, funnel_grid, frames_per_second=20, hold=1.5)
    assert time.process_time() - begin < 10
    assert path.stat().st_size < 3e6

    with open_image(path) as animation:
        assert animation.n_frames == 65
        assert animation.info["loop"] == 0
        frames, durations = [], []
        for frame in range(65):
            animation.seek(frame)
            frames.append(np.asarray(animation.convert("RGB"), dtype=int))
            durations.append(animation.info["duration"])
    assert durations == [50] * 64 + [1550]
    changed = [np.abs(after - before).any(axis=2).mean() for before, after in itertools.pairwise(frames)]
    assert 0 < min(changed) <= max(changed) < 0.1
    assert (frames[0][:3, :3] == 255).all()


def test_animation_of_one_frame_and_of_still_ones(tmp_path, small_grid):
    path = str(tmp_path / "still.gif")
    plots.animate(path, jnp.zeros((1, 4, 2)), small_grid, decades=None)
    with open_image(path) as animation:
        assert animation.n_frames == 1
    plots.animate(path, jnp.zeros((4, 4, 2)), small_grid)
    with open_image(path) as animation:
        assert animation.n_frames == 4


def test_animation_errors(tmp_path, small_grid):
    path = tmp_path / "none.gif"
    with pytest.raises(ValueError, match="the number of frames must be at least 1, got 0"):
        plots.animate(path, np.zeros((0, 4, 2)), small_grid)
    with pytest.raises(ValueError, match=r"frames_per_second must be in \(0, 50\], got 60"):
        plots.animate(path, np.zeros((2, 4, 2)), small_grid, frames_per_second=60)
    with pytest.raises(ValueError, match="hold must be at least 0 and finite, got -1"):
        plots.animate(path, np.zeros((2, 4, 2)), small_grid, hold=-1)
    assert not path.exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda grid: plots.limits(np.zeros((4, 3))),
        lambda grid: plots.histogram_grid(np.zeros((4, 2)), (0, 1), (0, 1), log_weights=np.zeros(3)),
        lambda grid: plots.scatter(np.zeros((4, 2)), np.zeros((4, 3))),
        lambda grid: plots.heat_map(grid, np.zeros((4, 3))),
        lambda grid: plots.training_history(np.zeros((4, 2))),
        lambda grid: plots.animate("never.gif", np.zeros((4, 2)), grid),
    ],
)
def test_wrong_shapes_are_named(call, small_grid):
    with pytest.raises(TypeCheckError, match=r"f64\[4,|f64\[3\]"):
        call(small_grid)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x_1", "$x_{1}$"),
        ("x_12", "$x_{12}$"),
        ("v", "$v$"),
        (r"\sigma", r"$\sigma$"),
        (r"\log v", r"$\log v$"),
        (r"\beta_{0}^2", r"$\beta_{0}^{2}$"),
        ("update", "update"),
        ("log variance", "log variance"),
        ("blood_pressure", "blood_pressure"),
        ("", ""),
        ("$x + y$", "$x + y$"),
    ],
)
def test_labels(name, expected):
    assert plots.scatter(np.zeros((1, 2)), labels=(name, "y")).axes[0].get_xlabel() == expected


@pytest.mark.parametrize("name", ["scatter", "heat_map", "surface", "training_history"])
def test_pictures_are_of_documentation_size_and_cut_nothing(name, small_grid, tmp_path):
    samples = draw_normal(100)
    figure = {
        "scatter": lambda: plots.scatter(samples, samples, labels=("log variance", "x_10")),
        "heat_map": lambda: plots.heat_map(small_grid, samples),
        "surface": lambda: plots.surface(small_grid),
        "training_history": lambda: plots.training_history(np.append(np.nan, 1e4 + samples[:, 0]), log_z=0.0),
    }[name]()
    figure.savefig(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert 650 < picture.width < 750
    box = figure.get_tightbbox()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.get_figwidth()
    assert box.y1 <= figure.get_figheight()


def test_matplotlib_is_imported_by_plots_alone_and_pyplot_never():
    code = (
        "import sys, dds; assert 'matplotlib' not in sys.modules;"
        "import dds.plots; assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_users_style_applies():
    with rc_context({"figure.facecolor": "black"}):
        figure = plots.scatter(np.zeros((3, 2)))
    assert figure.get_facecolor() == (0, 0, 0, 1)


def drawn(count=4000):
    """Weighted samples with known marginals: uniform draws, whose weights make a triangle of the first coordinate."""
    rng = np.random.default_rng(0)
    samples = {"a": rng.random((count, 2)).astype(np.float32), "b": rng.random(count).astype(np.float32)}
    return results.Draws(samples, jnp.log(jnp.asarray(samples["a"][:, 0])))


def test_a_corner_plot_shows_weighted_marginals_by_name():
    figure = figures.corner(drawn(), bins=10)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == 6
    assert [axes.get_ylabel() for axes in shown if axes.get_ylabel()] == ["a[1]", "$b$"]
    assert [axes.get_xlabel() for axes in shown if axes.get_xlabel()] == ["a[0]", "a[1]", "$b$"]
    left, right = shown[0].get_xlim()
    assert (left, right) == (pytest.approx(0.0, abs=0.1), pytest.approx(1.1, abs=0.05))
    vertices = np.asarray(shown[0].patches[0].get_path().vertices)
    low, high = (vertices[np.abs(vertices[:, 0] - at) < 0.06, 1].max() for at in (0.3, 0.9))
    assert high / low == pytest.approx(3, rel=0.3)


def test_a_corner_plot_of_chosen_coordinates():
    figure = figures.corner(drawn(), names=["b"])
    assert [axes.get_xlabel() for axes in figure.axes] == ["$b$"]
    with pytest.raises(ValueError, match=r"names must be one of a\[0\], a\[1\], b, got 'c'"):
        figures.corner(drawn(), names=["c"])
    with pytest.raises(ValueError, match="bins must be at least 2, got 1"):
        figures.corner(drawn(), bins=1)


def test_the_tail_of_weights_is_a_line_of_the_fitted_shape():
    rng = np.random.default_rng(0)
    log_weights = (-0.6 * np.log(rng.random(20_000))).astype(np.float32)
    axes = figures.weights(log_weights).axes[0]
    x, y = np.asarray(axes.lines[1].get_data())
    slope = np.diff(np.log(y[[0, -1]]))[0] / np.diff(np.log(x[[0, -1]]))[0]
    assert slope == pytest.approx(-1 / estimators.pareto_k(log_weights), rel=1e-3)
    assert slope == pytest.approx(-1 / 0.6, rel=0.2)
    own, shares = np.asarray(axes.lines[0].get_data())
    at = np.searchsorted(-own, -own[200])
    assert shares[at] == pytest.approx(201 / 20_000)
    with pytest.raises(ValueError, match="log_weights must be one or more, got none that is finite"):
        figures.weights(np.full(100, -np.inf, np.float32))


def test_the_trace_shows_what_was_tried_and_which_was_kept():
    tried = (
        results.Tried("importance", -1.0, 0.2, 0.1, 3.0),
        results.Tried("gates", np.nan, np.nan, np.nan, 40.0),
        results.Tried("network", 0.5, 0.01, 0.6, 90.0),
    )
    report = evaluation.summarise(np.zeros(100, np.float32), log_z_true=0.4)
    report = report._replace(log_z=0.5, log_z_standard_error=0.01)
    nothing = results.Result(*[None] * len(results.Result._fields))
    figure = figures.trace(nothing._replace(tried=tried, report=report))
    above, below = figure.axes
    assert legend(figure) == ["truth", "the result", "others"]
    kept, other = (container.lines for container in above.containers)
    assert [line[0].get_xydata().tolist() for line in (kept, other)] == [[[3.0, 0.5]], [[1.0, -1.0]]]
    np.testing.assert_allclose(other[2][0].get_segments()[0][:, 1], [-1.4, -0.6])
    assert [bar.get_height() for bar in below.patches] == [0.1, 0, 0.6]
    assert [text.get_text() for text in below.get_xticklabels()] == ["importance\n3 s", "gates\n40 s", "network\n90 s"]
    with pytest.raises(ValueError, match=r"result\.tried must be one or more, got empty"):
        figures.trace(nothing._replace(tried=(), report=report))


def test_populations_shows_first_the_coordinates_that_differ_most():
    rng = np.random.default_rng(0)
    nothing = results.Result(*[None] * len(results.Result._fields))
    samples, points = rng.normal(size=(20_000, 5)).astype(np.float32), rng.normal(size=(4000, 5)).astype(np.float32)
    # Weights that make the third coordinate a normal distribution about 1.
    log_weights = samples[:, 2] - 0.5
    points[:, 4] += 0.5
    target = targets.gaussian(jnp.zeros(5), jnp.eye(5))
    result = nothing._replace(samples=samples, log_weights=log_weights, target=target)
    figure = figures.populations(result, points, count=3)
    titles = [axes.get_title() for axes in figure.axes]
    expected = [2 * norm.cdf(0.5) - 1, 2 * norm.cdf(0.25) - 1]  # of normal distributions 1 and 0.5 apart
    for title, name, apart in zip(titles, ("x[2]", "x[4]"), expected, strict=False):
        assert title.startswith(name)
        assert float(title.split()[-1]) == pytest.approx(apart, abs=0.02)
    assert float(titles[2].split()[-1]) < 0.04
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["the sampler", "other means"]
    with pytest.raises(ValueError, match="points must be one or more, got none"):
        figures.populations(result, points[:0])
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        figures.populations(result, points, count=0)
