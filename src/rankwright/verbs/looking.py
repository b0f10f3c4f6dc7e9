"""Verbs that look and prove: show, schema, doctor, check-gradients, export."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from .. import api, recipe, storage
from ..console import out, out_json, table
from ..errors import ArtefactError, UsageError
from ..ledger import known_steps
from ..outputs import command
from ..plan import Recipe
from ..progress import say


def show(given: Namespace) -> None:
    path = Path(given.thing)
    if not path.is_dir():
        plan = recipe.dump(api.load_recipe(given.thing, given.overrides))
        out_json({"recipe": plan}) if given.json else out(plan)
        return say(f"next: {command('run', given.thing, *given.overrides)}")
    whole_run = (path / "recipe.yaml").is_file()
    facts = _run_facts(path) if whole_run else _artefact_facts(path)
    out_json(facts) if given.json else out(_lines(facts))
    if whole_run:
        say(f"next: {command('report', path)}")
    elif facts["kind"] in _NEXT:
        say(f"next: {command(*(str(path) if word == 'IT' else word for word in _NEXT[facts['kind']]))}")


_NEXT = {  # by kind of artefact
    "model": ("export", "IT", "--verify"),
    "vectors": ("search", "IT", "DATA", "--model", "MODEL", "--out", "run.trec"),
    "token-vectors": ("search", "IT", "DATA", "--model", "MODEL", "--out", "run.trec"),
    "ann": ("search", "IT", "DATA", "--model", "MODEL", "--out", "run.trec"),
    "bm25": ("search", "IT", "DATA", "--out", "run.trec"),
}


def _run_facts(path: Path) -> dict[str, Any]:
    steps = known_steps(path) if (path / "steps.json").is_file() else {}
    return {
        "run folder": str(path),
        "steps": {name: f"{step['seconds']:.1f} s" for name, step in steps.items()},
        "contents": sorted(p.name for p in path.iterdir() if not p.name.startswith(".")),
    }


def _artefact_facts(path: Path) -> dict[str, Any]:
    if not (path / storage.MANIFEST).is_file():
        what, fix = "no artefact of ours: no manifest.json in it", "give a recipe, a run folder or what a verb made"
        if (path / "config.json").is_file() or (path / "modules.json").is_file():
            fix = f"it looks like somebody's model: {command('export', path, '--verify')}"
        elif (path / "qrels").is_dir():
            fix = f"it looks like a data set: {command('doctor', path)}"
        raise ArtefactError(what, where=path, fix=fix)
    manifest = storage.verify(path)
    files = {name: f"{entry['size']:,} bytes" for name, entry in manifest.files.items()}
    return {"kind": manifest.kind, "key": manifest.key, "intact": True, **manifest.meta, "files": files}


def _lines(facts: dict[str, Any]) -> str:
    lines: list[str] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{key}:", *(f"  {name}: {detail}" for name, detail in value.items())]
        else:
            lines.append(f"{key}: {', '.join(value) if isinstance(value, list) else value}")
    return "\n".join(lines)


def schema(given: Namespace) -> None:
    out_json(recipe.schema(Recipe))
    say("next: keep it in a file, and begin recipes with `# yaml-language-server: $schema=FILE`: editors then help")


def doctor(given: Namespace) -> None:
    from ..doctor import examine, text

    findings = examine(given)
    if given.json:
        return out_json(findings)
    out(text(findings, given.thing))


def check_gradients(given: Namespace) -> None:
    from ..doctor import gradient_checks

    plan = api.load_recipe(given.recipe, given.overrides)
    results = gradient_checks(plan, queries=given.queries, dtype="float32" if given.float32 else "float64")
    passed = all(result["passed"] for result in results)
    if given.json:
        out_json({"passed": passed, "checks": results})
    else:
        rows = [
            [r["stage"], r["way"], f"{r['gradient']:.1e}", f"{r['loss']:.1e}", "same" if r["passed"] else "DIFFERENT"]
            for r in results
        ]
        out(table(["stage", "way of running the step", "gradient", "loss", "verdict"], rows))
        out("\nrelative difference from plain autograd over the whole batch, dropout on")
        if passed:
            out(f"next: rankwright run {given.recipe}")
    if not passed:
        raise ArtefactError("a gradient differs from plain autograd", fix="please report this with the recipe")


def export(given: Namespace) -> None:
    from .. import models

    if not given.out and not given.verify:
        raise UsageError("nothing to do", fix="give --out FOLDER, --verify or both")
    ranker = models.load(given.model)
    folder = Path(models.resolve(given.model))
    if given.out:
        models.export(ranker, Path(given.out))
        folder = Path(given.out)
        if not given.json:
            out(f"model: {folder}")
    if not given.verify:
        return (
            out_json({"model": str(folder)}) if given.json else out(f"next:  {command('export', folder, '--verify')}")
        )
    checks = models.verify_export(folder, _SAMPLE)
    if given.json:
        out_json([vars(check) for check in checks])
    else:
        rows = [[c.reader, c.side, "" if c.difference is None else f"{c.difference:.1e}", c.verdict] for c in checks]
        out(table(["read by", "side", "largest difference", "verdict"], rows))
        pairs = ranker.pairing is not None
        out(f"next: {command('rerank', 'RUN', 'DATA', '--model', folder, '--out', 'reranked.trec')}" if pairs
            else f"next: {command('encode', folder, 'DATA', '--out', 'vectors')}")  # fmt: skip
    if any(check.verdict == "differs" for check in checks):
        raise ArtefactError("another library computes other numbers from this folder", where=folder)


_SAMPLE = [
    "what is dense retrieval?",
    "A retriever maps queries and documents to vectors and ranks documents by their inner product.",
    "Résumé, naïve, Ωmega; 12,345.67 (mixed) signs!",
    "word " * 400,
]
