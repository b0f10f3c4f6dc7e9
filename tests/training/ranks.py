"""Starts several processes that find each other, as torchrun does, and collects what they say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def start(world: int, arguments: Sequence[str | Path]) -> list[subprocess.Popen[str]]:
    """`python *arguments`, once for each rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip


def finish(processes: Sequence[subprocess.Popen[str]], *, timeout: float = 280) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each; all are ended when one does not end in time."""
    try:
        done = [(process.communicate(timeout=timeout), process) for process in processes]
        return [(process.returncode, out, err) for (out, err), process in done]
    finally:
        for process in processes:
            process.kill()
