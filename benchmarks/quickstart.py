"""The quickstart over three seeds: what it reaches and how long it takes; writes benchmarks/results/quickstart.*"""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

from rankwright import run
from rankwright.console import table
from rankwright.storage import read_json, write_json, write_text

SEEDS = (0, 1, 2)
RESULTS = Path(__file__).parent / "results"
# sentence-transformers 6.2, its usual fine-tuning (in-batch negatives and 1 BM25 negative, batch 32, 2 epochs, 2e-5,
# length 256) on the same kind of machine, as given to this project; not run again here
PEER = {"nDCG@10": 0.690, "R@100": 0.953, "minutes": 22}


def main() -> None:
    first = Path("runs/quickstart-seed0")
    runs = []
    for seed in SEEDS:
        folder = Path(f"runs/quickstart-seed{seed}")
        if seed and first.exists() and not folder.exists():
            shutil.copytree(first, folder)  # the untouched model's part is the same for every seed: it is not redone
        result = run("quickstart", folder=folder, overrides=[f"seed={seed}"])
        means = result.means()["scifact-test"]
        runs.append({"seed": seed, "means": means, "steps": {s.name: s.seconds for s in result.steps}})
    measures = list(runs[0]["means"]["after training"])
    rows = []
    for system in runs[0]["means"]:
        cells = [[r["means"][system][m] for r in runs] for m in measures]
        rows.append([system, *(_spread(values) for values in cells)])
    rows.append(["(sentence-transformers)", *(f"{PEER[m]:.3f}" if m in PEER else "" for m in measures)])
    times = [[name, f"{seconds:.0f} s"] for name, seconds in runs[0]["steps"].items()]
    total = sum(runs[0]["steps"].values())
    text = "\n\n".join(
        [
            table([f"SciFact test, seeds {', '.join(map(str, SEEDS))}", *measures], rows),
            table(["step (seed 0)", "time"], [*times, ["all", f"{total:.0f} s"]]),
        ]
    )
    print(text)
    environment = read_json(first / "environment.json")
    write_json(RESULTS / "quickstart.json", {"runs": runs, "environment": environment, "peer": PEER})
    write_text(RESULTS / "quickstart.txt", text + "\n\n" + json.dumps(environment, indent=1) + "\n")


def _spread(values: list[float]) -> str:
    if max(values) - min(values) < 1e-9:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
