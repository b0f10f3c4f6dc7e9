"""What benchmarks share: interleaved rounds, ratios, facts about the machine, results as JSON and table."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rankwright.console import table
from rankwright.storage import write_json, write_text

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Cell:
    """Seconds per round of every contestant on one task."""

    task: str
    seconds: dict[str, list[float]]

    def ratios(self, peer: str, ours: str) -> tuple[float, float, float]:
        """Least, median and greatest of the rounds' peer / ours: above 1 we are faster."""
        rounds = [theirs / mine for theirs, mine in zip(self.seconds[peer], self.seconds[ours])]
        return min(rounds), statistics.median(rounds), max(rounds)


def interleave(
    task: str, contestants: Mapping[str, Callable[[], object]], *, rounds: int = 5, warm_up: bool = True
) -> Cell:
    """Time every contestant once a round, so that a busy machine slows all alike; the first round may warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return Cell(task, seconds)


def publish(
    name: str, cells: list[Cell], *, ours: str, packages: list[str], notes: Mapping[str, Any] = {}, keep: bool = False
) -> None:
    """Print the ratios of every peer to us and write them, with machine and versions, to `benchmarks/results`.

    Where `keep`, what was written before of other tasks stays.
    """
    path = RESULTS / f"{name}.json"
    before: dict[str, Any] = json.loads(path.read_text()) if keep and path.exists() else {"results": [], "notes": {}}
    records = [record for record in before["results"] if record["task"] not in {cell.task for cell in cells}]
    for cell in cells:
        for peer in (peer for peer in cell.seconds if peer != ours):
            ratio = dict(zip(("min", "median", "max"), cell.ratios(peer, ours)))
            records.append({"task": cell.task, "peer": peer, "ours": ours, "seconds": cell.seconds, "ratio": ratio})
    rows = []
    for record in records:
        theirs, mine = (statistics.median(record["seconds"][who]) for who in (record["peer"], ours))
        ratios = (f"{ratio:.2f}" for ratio in record["ratio"].values())
        rows.append([record["task"], record["peer"], f"{theirs:.3f} s", f"{mine:.3f} s", *ratios])
    text = table(["task", "peer", "peer's median", "our median", "ratio min", "median", "max"], rows)
    print(text)
    facts, said = machine(packages), {**before["notes"], **notes}
    write_json(path, {"results": records, "notes": said, "machine": facts})
    write_text(RESULTS / f"{name}.txt", f"{text}\n\n{json.dumps(said | facts, indent=1)}\n")


def machine(packages: list[str]) -> dict[str, Any]:
    """Processor, cores, load and versions."""
    model = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": model[0] if model else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in ("numpy", "torch", *packages)},
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
