"""The verb between layouts: convert, for training data and for recipes of other programs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ..console import out, out_json
from ..data import Reading
from ..errors import UsageError
from ..outputs import command, new_folder

if TYPE_CHECKING:
    from ..data.dialects import Turns


def convert(given: Namespace) -> None:
    if given.source[0] == "recipe" and len(given.source) > 1:
        return _recipe(given)
    if len(given.source) != 1:
        what = f"one source at a time, got {len(given.source)}: {' '.join(given.source)}"
        raise UsageError(
            what, fix="rankwright convert SOURCE --out FOLDER, or rankwright convert recipe FILE --out FILE"
        )
    from ..data.dialects import BEIR, HoldOut, convert, detect

    reading = Reading(lenient=given.lenient)
    held = None if given.validation is None else HoldOut(given.validation, given.seed, given.split)
    dialect = given.dialect or detect(given.source[0])
    made = convert(
        given.source[0], new_folder(given.out), to=given.to, dialect=dialect, split=given.split,
        corpus=given.corpus, queries=given.queries, permutations=given.permutations, repair=given.repair,
        strata=given.strata, turns=_turns(given, dialect), answers=given.answers, held=held, reading=reading,
    )  # fmt: skip
    if given.json:
        facts = {"from": made.dialect, "to": given.to, "folder": str(made.folder), "counts": made.counts}
        return out_json(facts | {"problems": dict(reading.counts), "notes": dict(reading.notes)})
    for kind, count in (reading.counts + reading.notes).items():
        out(f"{kind}: {count:,}, e.g. {reading.examples[kind][0]}")
    counts = ", ".join(f"{count:,} {noun}" for noun, count in made.counts.items() if count)
    out(f"{given.to}: {made.folder}  ({made.dialect}: {counts})")
    after = (
        command("doctor", made.folder)
        if given.to in (BEIR, "trec")
        else command("convert", made.folder, "--out", "DATA")
    )
    return out(f"next: {after}")


def _turns(given: Namespace, dialect: str) -> Turns | None:
    """How conversations are written, where the command says anything of it; else as the dialect does."""
    from ..data.dialects import Turns
    from ..data.dialects.chatrag import ChatRAG, Histories

    if given.turns is None and given.roles is None and given.turn is None:
        return None
    usual = Histories().turns if dialect == Histories.name else ChatRAG().turns
    words: list[str] = given.roles or []
    pairs = [word.partition("=") for word in words]
    if any(not (role and sign and name) for role, sign, name in pairs):
        raise UsageError(f"--roles {' '.join(words)}", fix="write ROLE=NAME, e.g. --roles assistant=Agent")
    roles = {**usual.roles, **{role: name for role, _, name in pairs}}
    last = usual.last if given.turns is None else given.turns or None
    return Turns(last, roles, given.turn or usual.template)


def _recipe(given: Namespace) -> None:
    from .. import storage
    from ..translation import translate

    target = Path(given.out)
    if target.suffix not in (".yaml", ".yml") or target.is_dir():
        raise UsageError("a recipe is written here", where=given.out, fix="name a YAML file, e.g. --out recipe.yaml")
    made = translate(given.source[1:])
    storage.write_text(target, made.text)
    if given.json:
        return out_json({"recipe": str(target), "from": made.program, "unmapped": made.unmapped})
    for key, why in made.unmapped.items():
        out(f"not translated: {key}: {why}")
    out(f"recipe: {target}  (from {made.program})")
    return out(f"next: {command('run', target, '--dry-run')}")
