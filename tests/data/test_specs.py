"""Groups and batches as a recipe names them: read, written back, wrong ones refused by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankwright import recipe
from rankwright.data import ByTopic, HardMargin, MarginBins, Mixed, Part, PerGrade, Window
from rankwright.errors import RecipeError
from rankwright.loading import choices, rooted
from rankwright.models import Dense
from rankwright.plan import Recipe, Stage

_STAGE = """
data: [{{Judged: {{dataset: d}}}}]
group: {group}
batches: {batches}
objective: [{{loss: InfoNCE}}]
"""
_GROUPS = {
    "PerGrade: {counts: 2}": PerGrade(2),
    "PerGrade: {counts: {3: 1, 0: 4}}": PerGrade({"3": 1, "0": 4}),
    "MarginBins: {bins: 5, relevant: train.tsv}": MarginBins(5, "train.tsv"),
    "HardMargin: {cutoff: 3}": HardMargin(3.0),
    "Window: {ranks: [10, 50], size: 4}": Window((10, 50), 4),
}
_BATCHES = {
    "ByTopic: {topics: t.tsv, size: 16, variant: code}": ByTopic("t.tsv", 16, variant="code"),
    "Mixed: {parts: [{queries: a.tsv, weight: 2}, {queries: b.tsv}], temperature: 2}": Mixed(
        (Part("a.tsv", 2.0), Part("b.tsv")), temperature=2.0
    ),
}


def _stage(group: str = "Random", batches: str = "Shuffled") -> Stage:
    written = [text if ":" not in text else f"{{{text}}}" for text in (group, batches)]
    return recipe.loads(_STAGE.format(group=written[0], batches=written[1]), Stage)


@pytest.mark.parametrize(("text", "group"), _GROUPS.items(), ids=list(_GROUPS))
def test_groups_are_read_and_written_back(text: str, group: object) -> None:
    stage = _stage(group=text)
    assert stage.group == group
    assert recipe.loads(recipe.dump(stage), Stage) == stage


@pytest.mark.parametrize(("text", "batches"), _BATCHES.items(), ids=list(_BATCHES))
def test_batches_are_read_and_written_back(text: str, batches: object) -> None:
    stage = _stage(batches=text)
    assert stage.batches == batches
    assert recipe.loads(recipe.dump(stage), Stage) == stage


def test_files_are_places_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("t.tsv", "a.tsv", "b.tsv", "train.tsv"):
        (tmp_path / name).touch()
    for text in _BATCHES:
        here = _stage("MarginBins: {bins: 5, relevant: train.tsv}", text)
        (moved,) = rooted(Recipe(Dense("m"), (here,))).stages
        assert moved.group.files() == (str(tmp_path / "train.tsv"),)
        assert moved.batches.files() == tuple(str(tmp_path / name) for name in here.batches.files())
        assert choices([moved.group, moved.batches]) == choices([here.group, here.batches])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ByTopic: {topics: t.tsv, variant: pape}", "did you mean 'paper'"), ("ByTopic: {size: 8}", "'topics'"),
        ("Mixed: {parts: []}", "parts"), ("Mixed: {parts: [{weight: 2}]}", "'queries'"),
        ("ByLength: {size: 0}", "size"),
    ],
)  # fmt: skip
def test_wrong_ones_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        _stage(batches=text)
