"""The command, end to end, small."""

import contextlib
import importlib.util
import inspect
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import wandb
from PIL import Image

import dds
from dds import compiling, plots
from dds.cli import main as command
from dds.cli import named

SMALL = ["--steps", "8", "--noise", "2", "--updates", "50", "--batch", "30", "--samples", "200", "--width", "8"]
KEYS = {
    "target",
    "dim",
    "log_z",
    "log_z_standard_error",
    "log_z_true",
    "elbo",
    "ess",
    "pareto_k",
    "seconds",
    "updates",
    "skipped_updates",
    "seed",
    "verdict",
}


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["dds", *map(str, arguments)])
    command.main()


def test_every_named_target_is_found_and_named_in_the_help():
    for name, entry in named.NAMED.items():
        target, plane, _ = named.find_target(name, None, None)
        assert np.isfinite(target.log_density(np.full(target.dim, 0.3, np.float32)))
        assert (plane is None) == (entry.dim is None)
        assert target.structure is None
        assert name in str(command.run.__doc__)


@pytest.mark.slow
def test_it_writes_what_it_says(monkeypatch, tmp_path, capsys):
    run(monkeypatch, "funnel", *SMALL, "--dim", 3, "--seed", 5, "--output", tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) >= KEYS
    assert (summary["target"], summary["dim"], summary["updates"], summary["seed"]) == ("funnel", 3, 50, 5)
    assert 0 < summary["ess"] <= 1
    assert summary["log_z_true"] == 0
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as archive:
        samples, log_weights = archive["samples"], archive["log_weights"]
    assert samples.shape == (200, 3)
    assert log_weights.shape == (200,)
    assert summary["log_z"] == pytest.approx(np.log(np.mean(np.exp(log_weights))), abs=1e-4)
    with np.load(tmp_path / "parameters.npz", allow_pickle=False) as archive:
        assert {"['logits']", "['heads']", "['coordinates']['mean']"} <= set(archive.files)
    for name in ("trace", "corner", "weights", "training", "samples", "exact", "density", "surface"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 500
    with Image.open(tmp_path / "animation.gif") as animation:
        assert animation.n_frames == 9
    printed = capsys.readouterr().out
    for words in ("log Z", "ELBO", "ESS", "Pareto k", "seconds", "rust log Z", "worth"):
        assert words in printed


@pytest.mark.slow
def test_the_pictures_are_of_the_pair_that_is_asked_for(monkeypatch, tmp_path):
    drawn = {}
    scatter, animate = plots.scatter, plots.animate
    monkeypatch.setattr(plots, "scatter", lambda *a, **k: drawn.setdefault("scatter", (a, k)) and scatter(*a, **k))
    monkeypatch.setattr(plots, "animate", lambda *a, **k: drawn.update(animate=(a, k)) or animate(*a, **k))
    run(monkeypatch, "funnel", *SMALL, "--dim", 3, "--pair", 2, 0, "--output", tmp_path)
    with np.load(tmp_path / "samples.npz") as archive:
        samples = archive["samples"]
    (points, exact), options = drawn["scatter"]
    np.testing.assert_array_equal(points, samples[:, [2, 0]])
    assert np.std(exact[:, 1]) == pytest.approx(3, rel=0.2)  # that of the funnel's v, the first coordinate
    assert options["labels"] == drawn["animate"][1]["labels"] == ("x[2]", "x[0]")
    states, _ = drawn["animate"][0][1:]
    assert states.shape == (9, 500, 2)
    assert abs(np.median(states[-1, :, 1]) - np.median(samples[:, 0])) < 1


@pytest.mark.parametrize(("before", "count", "after"), [("1", 2, "4"), ("", 2, "4"), ("8", 2, "8"), ("1", 1, "1")])
def test_devices_of_a_cpu_have_two_threads_each(monkeypatch, before, count, after):
    jax.devices()  # so that JAX has started, and the number of its devices stays
    monkeypatch.setattr(compiling, "STARVING", True)
    monkeypatch.setattr(command, "find_and_report", lambda *arguments: None)
    monkeypatch.setattr(dds.devices, "using", contextlib.nullcontext)
    monkeypatch.setenv("NPROC", before)
    run(monkeypatch, "funnel", "--devices", count)
    assert os.environ["NPROC"] == after


@pytest.mark.slow
def test_a_budget_ends_the_training(monkeypatch, tmp_path):
    run(monkeypatch, "gaussian", *SMALL, "--dim", 2, "--no-pictures", "--seconds", "1e-6", "--output", tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["updates"] == 25  # it ends with its first block


@pytest.mark.slow
def test_plain_dds_and_the_same_seed(monkeypatch, tmp_path):
    for folder in ("one", "other"):
        options = ["--dim", 3, "--kernel", "dds", "--no-pictures", "--output", tmp_path / folder]
        run(monkeypatch, "funnel", *SMALL, *options)
        with np.load(tmp_path / folder / "parameters.npz", allow_pickle=False) as archive:
            assert "['out']['weight']" in archive.files
    one, other = (np.load(tmp_path / folder / "samples.npz")["samples"] for folder in ("one", "other"))
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_several_modes_are_trained_on_with_the_forward_loss(monkeypatch, tmp_path):
    run(monkeypatch, "mixture", *SMALL, "--no-pictures", "--output", tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["loss"] == "forward"
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as archive:
        x = archive["samples"]
    assert all((side > 0.1).any() and (side < -0.1).any() for side in x.T)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [1, 3])
def test_a_log_density_of_ones_own(monkeypatch, tmp_path, dim):
    (tmp_path / f"own_{dim}.py").write_text("def log_density(x):\n    return -(x @ x) / 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--dim", dim, *SMALL, "--no-whiten", "--output", tmp_path / "out"]
    run(monkeypatch, f"own_{dim}:log_density", *options)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["dim"] == dim
    assert summary["log_z_true"] is None
    assert abs(summary["log_z"] - dim / 2 * np.log(2 * np.pi)) < 6 * summary["log_z_standard_error"]
    assert (tmp_path / "out" / "density.png").exists() == (dim > 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tunnel"], "target must be one of funnel, .* got 'tunnel' .did you mean funnel"),
        (["anything"], "target must be one of funnel, .*, or an importable log density .* got 'anything'"),
        (["mod.py:f", "--dim", "2"], "did you mean mod:f"),
        (["./m:ok", "--dim", "2"], "got './m:ok'"),
        (["math:pi", "--dim", "2"], "target must be a function of one point, got 'math:pi', a float"),
        (["funnel", "--seed", str(2**70)], "seed must be from 0 to 4294967295"),
        (["funnel", "--width", "-1"], "width must be at least 0, got -1"),
        (["funnel", "--depth", "0"], "depth must be at least 1, got 0"),
        (["funnel", "--steps", "1000000000"], "steps and batch must be less than the .* GiB of memory"),
        (["--resume", "no-such-folder"], "resume must be a folder with a checkpoint.npz"),
        (["--load", "no-such-folder"], "load must be the folder of a finished run"),
        (["no_such_module:f", "--dim", "2"], "No module named 'no_such_module'"),
        (["math:no_such_name", "--dim", "2"], "no_such_name"),
        (["math:sin"], "dim must be given for a log density of your own, got None"),
        (["math:sin", "--dim", "2"], "log_density cannot be evaluated at a point of shape"),
        (["funnel", "--dim", "1"], "dim must be at least 2, got 1"),
        (["funnel", "--steps", "0"], "steps must be at least 1, got 0"),
        (["funnel", "--seconds", "0"], "seconds must be positive, got 0.0"),
        (["funnel", "--updates", "0"], "updates must be at least 1, got 0"),
        (["funnel", "--samples", "24"], "samples must be at least 25, got 24"),
        (["funnel", "--batch", "0"], "batch must be at least 1, got 0"),
        (["sonar", "--dim", "3"], "dim must be left out, for sonar has its own, got 3"),
        (["funnel", "--sigma", "0"], "sigma must be positive and finite, got 0.0"),
        (["funnel", "--pair", "0", "10"], "pair must be two different coordinates, from 0 to 9, got 0 10"),
        (["funnel", "--pair", "1", "1"], "pair must be two different coordinates, from 0 to 9, got 1 1"),
        (["funnel", "--noise", "100"], r"noise fraction b_k .* must be in \(0, 1\)"),
        (["funnel", "--kernel", "dds", "--loss", "forward"], "loss must be reverse with the dds kernel, got forward"),
        (["funnel", "--learning-rate", "0"], "learning_rate must be positive and finite, got 0.0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(monkeypatch, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=f"(?s)^error: .*{message}"):
        run(monkeypatch, *arguments, "--output", tmp_path)


@pytest.mark.slow
def test_tracking_logs_progress_figures_and_pictures_offline(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    logged, init = [], wandb.init

    def spy(**options):
        assert options["mode"] == "offline"
        run = init(**options)
        log = run.log
        monkeypatch.setattr(run, "log", lambda data, **rest: (logged.append(data | rest), log(data, **rest)))
        return run

    monkeypatch.setattr(wandb, "init", spy)
    run(monkeypatch, "gaussian", *SMALL, "--dim", 2, "--track", "wandb", "--output", tmp_path)
    *progress, end = logged
    assert [record["step"] for record in progress] == [25, 50]
    assert set(progress[0]) == {"loss", "elbo", "ess", "gradient_norm", "skipped_updates", "step"}
    assert progress[0]["gradient_norm"] > 0
    assert 0 < progress[0]["ess"] <= 1
    assert {"figures", "samples", "density", "surface", "training", "animation"} <= set(end)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_tracking_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="track must be left out where wandb is not installed"):
        run(monkeypatch, "gaussian", *SMALL, "--dim", 2, "--track", "wandb", "--output", tmp_path)


def test_output_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"error: output must be a folder that can be written, got .*file"):
        run(monkeypatch, "funnel", "--output", tmp_path / "file" / "folder")


def test_output_where_a_file_would_be_a_folder(monkeypatch, tmp_path):
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(SystemExit, match=r"output must be a folder without folders of such names, got .*summary\.json"):
        run(monkeypatch, "funnel", "--output", tmp_path)


def test_help_is_complete_at_80_columns():
    env = {**os.environ, "COLUMNS": "80"}
    call = [sys.executable, "-m", "dds", "--help"]
    text = subprocess.run(call, capture_output=True, text=True, check=True, env=env).stdout
    for name in inspect.signature(command.run).parameters:
        assert name == "target" or f"--{name.replace('_', '-')}" in text
    assert "my_module:log_density" in text
    assert max(map(len, text.splitlines())) <= 80


def test_version():
    call = [sys.executable, "-m", "dds", "--version"]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == f"dds {dds.__version__}\n"


def test_without_the_extras_it_says_what_to_install():
    program = "import sys; sys.modules['tyro'] = None; from dds.__main__ import main; main()"
    call = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert call.returncode == 1
    assert "pip install 'dds-jax[cli]'" in call.stderr
    assert "Traceback" not in call.stderr


LONG = ["funnel", *SMALL, "--updates", "200", "--dim", "3", "--no-whiten", "--no-pictures"]


def start(folder, *more):
    call = [sys.executable, "-m", "dds", *LONG, *more, "--output", str(folder)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, text=True)


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    with start(tmp_path / "killed") as process:
        wait_for(tmp_path / "killed" / "checkpoint.npz", process)
        process.kill()
    assert not (tmp_path / "killed" / "summary.json").exists()
    call = [sys.executable, "-m", "dds", "--resume", str(tmp_path / "killed")]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
    with start(tmp_path / "whole") as process:
        process.communicate(timeout=120)
    for name in ("samples.npz", "parameters.npz"):
        one, other = (np.load(tmp_path / folder / name) for folder in ("killed", "whole"))
        for array in one.files:
            np.testing.assert_array_equal(one[array], other[array])
    assert not (tmp_path / "killed" / "checkpoint.npz").exists()


@pytest.mark.slow
def test_more_samples_of_a_finished_run(monkeypatch, tmp_path, capsys):
    run(monkeypatch, *LONG[:-2], "--updates", "25", "--no-whiten", "--no-pictures", "--output", tmp_path / "run")
    run(monkeypatch, "--load", tmp_path / "run", "--samples", 70, "--seed", 8, "--output", tmp_path / "more")
    with np.load(tmp_path / "more" / "samples.npz") as archive:
        assert archive["samples"].shape == (70, 3)
    assert "The verdict of the run was" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_evaluates_and_saves_what_there_is(tmp_path, number):
    with start(tmp_path, "--updates", "1000000") as process:
        wait_for(tmp_path / "checkpoint.npz", process)
        process.send_signal(number)
        try:
            printed, _ = process.communicate(timeout=120)
        finally:
            process.kill()  # one that does not stop would be waited for without end
    assert process.returncode == 0, printed
    assert "Stopping" in printed
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert 0 < summary["updates"] < 1_000_000
    assert (tmp_path / "parameters.npz").exists()
    assert np.load(tmp_path / "samples.npz")["samples"].shape == (200, 3)
