"""The documentation's examples run, its commands parse, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from rankwright import recipe
from rankwright.cli import parser
from rankwright.plan import Recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
ids = [str(p.relative_to(ROOT)) for p in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_python_examples_run(page: Path, tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch):
    shutil.copytree(tiny_model, tmp_path / "my_model")
    shutil.copytree(tiny_data, tmp_path / "my_data")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, code in enumerate(blocks(page, "python"), start=1):
        exec(compile(code, f"{page.name}: example {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_parse(page: Path):
    for block in [*blocks(page, "bash"), *blocks(page, "console")]:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["rankwright"]:
                parser().parse_args(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_whole_recipes_are_valid(page: Path):
    for block in blocks(page, "yaml"):
        if isinstance(node := yaml.safe_load(block), dict) and "model" in node:
            assert isinstance(recipe.loads(block, Recipe), Recipe)


@pytest.mark.parametrize("path", sorted((ROOT / "src/rankwright/recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_bundled_recipes_are_valid_and_round_trip(path: Path):
    plan = recipe.load(path, Recipe)
    assert recipe.loads(recipe.dump(plan), Recipe) == plan


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), target
