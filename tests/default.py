"""The command with its default options on the funnel, over seeds: `python tests/default.py`. Prints one line a seed.

Beside what the command reports it says what the samples miss: v has standard deviation 3, and 0.091 in either tail.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

for seed in map(str, range(3)):
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "dds", "funnel", "--seed", seed, "--output", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - start
        summary = json.loads((Path(folder) / "summary.json").read_text())
        v = np.load(Path(folder) / "samples.npz")["samples"][:, 0]
    tails = {"sd_of_v": v.std(), "low_tail": np.mean(v < -4), "high_tail": np.mean(v > 4)}
    summary |= {"seconds_with_start_and_pictures": whole, **{name: float(value) for name, value in tails.items()}}
    print(json.dumps(summary), flush=True)
