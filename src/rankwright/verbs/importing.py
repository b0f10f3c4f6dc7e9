"""The verb for other programs' model files: import-dpr, for checkpoints of DPR, GC-DPR and SR-DPR."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..console import out
from ..outputs import command, new_folder


def import_dpr(given: Namespace) -> None:
    from ..models.dpr import import_checkpoint

    made = import_checkpoint(Path(given.checkpoint), new_folder(given.out), base=given.base, memory=given.memory)
    stated = ", ".join(f"{name} {value!r:.60}" for name, value in made.settings.items())
    out(f"model: {made.folder}  ({made.encoders} encoder(s){'; its training: ' + stated if stated else ''})")
    out(f"next:  {command('encode', made.folder, 'DATA', '--out', 'vectors')}")
