"""The command, end to end, small."""

import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import wandb
from PIL import Image

from dds import __main__ as command
from dds import targets
from dds._processes import kind_of_training
from dds.types import Normal

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
    assert summary["elbo"] == pytest.approx(log_weights.mean(), abs=1e-4)
    with np.load(tmp_path / "parameters.npz", allow_pickle=False) as archive:
        assert {"logits", "heads", "coordinates/mean"} <= set(archive.files)
    for name in ("training", "samples", "exact", "density", "surface"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 500
    with Image.open(tmp_path / "animation.gif") as animation:
        assert animation.n_frames == 9
    printed = capsys.readouterr().out
    for words in ("log Z", "ELBO", "ESS", "Pareto k", "seconds", "rust log Z"):
        assert words in printed


@pytest.mark.slow
def test_plain_dds_and_the_same_seed(monkeypatch, tmp_path):
    for folder in ("one", "other"):
        options = ["--dim", 3, "--kernel", "dds", "--no-pictures", "--output", tmp_path / folder]
        run(monkeypatch, "funnel", *SMALL, *options)
        with np.load(tmp_path / folder / "parameters.npz", allow_pickle=False) as archive:
            assert "out/weight" in archive.files
    one, other = (np.load(tmp_path / folder / "samples.npz")["samples"] for folder in ("one", "other"))
    np.testing.assert_array_equal(one, other)


def test_several_modes_are_trained_on_with_the_forward_loss(monkeypatch, tmp_path):
    run(monkeypatch, "mixture", *SMALL, "--no-pictures", "--output", tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["loss"] == "forward"
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as archive:
        x = archive["samples"]
    assert all((side > 0.1).any() and (side < -0.1).any() for side in x.T)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: targets.gaussian(jnp.zeros(3), jnp.eye(3)), "gates"),
        (lambda: targets.funnel(3), "network"),
        (lambda: targets.gaussian(jnp.zeros(129), jnp.eye(129)), "gates in many dimensions"),
    ],
)
def test_the_untrained_sampler_says_whether_gates_are_enough(make, kind):
    target = make()
    law = Normal(jnp.zeros(target.dim), jnp.ones(()))
    assert kind_of_training(jax.random.key(0), target, law) == kind


@pytest.mark.parametrize("dim", [1, 3])
def test_a_log_density_of_ones_own(monkeypatch, tmp_path, dim):
    (tmp_path / f"own_{dim}.py").write_text("def log_density(x):\n    return -(x @ x) / 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--dim", dim, *SMALL, "--no-whiten", "--output", tmp_path / "out"]
    run(monkeypatch, f"own_{dim}:log_density", *options)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["dim"] == dim
    assert summary["log_z_true"] is None
    assert summary["log_z"] == pytest.approx(dim / 2 * np.log(2 * np.pi), abs=1)
    assert (tmp_path / "out" / "density.png").exists() == (dim > 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tunnel"], "target must be one of funnel, .*, or an importable log density .* got 'tunnel'"),
        (["no_such_module:f", "--dim", "2"], "No module named 'no_such_module'"),
        (["math:no_such_name", "--dim", "2"], "no_such_name"),
        (["math:sin"], "dim must be given for a log density of your own, got None"),
        (["math:sin", "--dim", "2"], "log_density cannot be evaluated at a point of shape"),
        (["funnel", "--dim", "1"], "dim must be at least 2, got 1"),
        (["funnel", "--steps", "0"], "steps must be at least 1, got 0"),
        (["funnel", "--updates", "0"], "updates must be at least 1, got 0"),
        (["funnel", "--samples", "24"], "samples must be at least 25, got 24"),
        (["funnel", "--batch", "0"], "batch must be at least 1, got 0"),
        (["sonar", "--dim", "3"], "dim must be left out, for sonar has its own, got 3"),
        (["funnel", "--sigma", "0"], "sigma must be positive and finite, got 0.0"),
        (["funnel", "--noise", "100"], r"noise fraction b_k .* must be in \(0, 1\)"),
        (["funnel", "--kernel", "dds", "--loss", "forward"], "loss must be reverse with the dds kernel, got forward"),
        (["funnel", "--learning-rate", "0"], "learning_rate must be positive, got 0.0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(monkeypatch, tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=f"(?s)^error: .*{message}"):
        run(monkeypatch, *arguments, "--output", tmp_path)


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
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SystemExit, match="track must be left out where wandb is not installed"):
        run(monkeypatch, "gaussian", *SMALL, "--dim", 2, "--track", "wandb", "--output", tmp_path)


def test_output_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"error: output must be a folder that can be written, got .*file"):
        run(monkeypatch, "funnel", "--output", tmp_path / "file" / "folder")


def test_help_is_complete():
    text = subprocess.run([sys.executable, "-m", "dds", "--help"], capture_output=True, text=True, check=True).stdout
    for option in (
        "dim",
        "kernel",
        "loss",
        "whiten",
        "steps",
        "updates",
        "batch",
        "samples",
        "seed",
        "sigma",
        "noise",
        "output",
        "pictures",
    ):
        assert f"--{option}" in text
    assert "my_module:log_density" in text


def test_interrupting_evaluates_and_saves_what_there_is(tmp_path):
    arguments = ["funnel", *SMALL, "--updates", "1000000", "--no-whiten", "--no-pictures", "--output", str(tmp_path)]
    with subprocess.Popen([sys.executable, "-m", "dds", *arguments], stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "summary.json").exists() and time.monotonic() < deadline:
            time.sleep(0.2)  # it is made before the training starts
        time.sleep(8)
        process.send_signal(signal.SIGINT)
        try:
            printed, _ = process.communicate(timeout=120)
        finally:
            process.kill()  # one that does not stop would be waited for without end
    assert process.returncode == 0, printed
    assert "Stopping" in printed
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert 0 < summary["updates"] < 1_000_000
    assert (tmp_path / "parameters.npz").exists()
    assert np.load(tmp_path / "samples.npz")["samples"].shape == (200, 10)
