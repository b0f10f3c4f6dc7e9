"""Recipes: what YAML means, what is refused and in which words, overrides, round trips, the schema."""

from __future__ import annotations

import json
import math
import random
import re
import string
import subprocess
import sys
import textwrap
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from rankwright import _yaml, recipe
from rankwright.errors import RankwrightError, RecipeError, UsageError
from rankwright.recipe import Slot

# --- a recipe class of our own: every kind of field there is ----------------------------------------------------------

__all__ = ["Base", "Contrast", "Margin", "Plain", "helper"]  # what Slot(__name__) offers


def helper() -> None:
    """Exported, but no component."""


@dataclass(frozen=True)
class Base(ABC):
    """Abstract: a dataclass, but none that can be made."""

    @abstractmethod
    def run(self) -> None: ...


@dataclass(frozen=True)
class Contrast(Base):
    """Pulls and pushes.

    Longer story.

    Args:
        temperature: divides
            the scores.
        kind: which one.
    """

    temperature: float = 0.05
    kind: Literal["each", "all"] = "each"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise RecipeError(f"temperature must be above 0, got {self.temperature}", fix="try 0.05")

    def run(self) -> None: ...


@dataclass(frozen=True)
class Margin(Base):
    margin: float
    power: int = 1

    def __post_init__(self) -> None:
        if self.power < 1:
            raise ValueError("power below 1")

    def run(self) -> None: ...


@dataclass(frozen=True)
class Plain:
    """Not a Base."""


@dataclass(frozen=True)
class Own(Base):
    """Not exported: a user's own class."""

    words: tuple[str, ...] = ()

    def run(self) -> None: ...


@dataclass(frozen=True)
class Train:
    learning_rate: float = 2e-5
    steps: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    precision: Literal["float32", "bf16"] = "float32"
    shuffle: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


@dataclass(frozen=True)
class Stage:
    loss: Annotated[Any, Slot(__name__)]
    others: list[Annotated[Base, Slot(__name__)]] = field(default_factory=list)
    teacher: Annotated[Base, Slot(__name__)] | None = None
    train: Train = field(default_factory=Train)
    prompts: dict[str, str] = field(default_factory=dict)
    limit: int | float | Literal["auto"] | None = None
    extra: Any = None


@dataclass(frozen=True)
class Root:
    name: str
    stages: tuple[Stage, ...] = ()
    best: Train | None = None


def loads(text: str, *overrides: str) -> Root:
    return recipe.loads(textwrap.dedent(text), Root, name="r.yaml", overrides=overrides)


def error(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        loads(text, *overrides)
    return str(caught.value)


GOOD = """\
name: demo
stages:
  - loss: {Contrast: {temperature: 0.1}}
    others: [Contrast, {Margin: {margin: 1}}]
    train:
      learning_rate: 1e-5
      steps: 400_000
      betas: [0.9, 1]
  - loss: Contrast
    prompts: {query: "query: "}
"""


def test_a_recipe_becomes_its_objects():
    assert loads(GOOD) == Root(
        "demo",
        (
            Stage(
                Contrast(0.1),
                [Contrast(), Margin(1.0)],
                train=Train(learning_rate=1e-5, steps=400_000, betas=(0.9, 1.0)),
            ),
            Stage(Contrast(), prompts={"query": "query: "}),
        ),
    )


def test_load_reads_a_file_with_a_byte_order_mark_and_names_it_in_errors(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\r\nbest: {learning_rat: 1}\r\n")
    with pytest.raises(RecipeError) as caught:
        recipe.load(path, Root)
    assert str(caught.value).startswith(f"{path}:2: best.learning_rat: unknown; did you mean 'learning_rate'?")
    assert recipe.load(path, Root, overrides=["best=null"]) == Root("x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such recipe"),
        (lambda p: p.mkdir(), "is a folder, not a recipe"),
        (lambda p: p.write_bytes(b"name: x\n\nbest: \xff"), ":3: not UTF-8 text"),
        (lambda p: p.write_bytes(b"#" * (1 << 18)), "longer than 131,072 bytes"),
    ],
)
def test_unreadable_files_are_typed_errors(tmp_path, make, message):
    path = tmp_path / "r.yaml"
    make(path)
    with pytest.raises(RecipeError) as caught:
        recipe.load(path, Root)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


# --- what scalars mean ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1E5", 1e5), ("1.5e3", 1500.0), (".5", 0.5), ("1.", 1.0), ("-1_000.5", -1000.5),
        ("400_000", 400_000), ("-3", -3), ("+3", 3), ("0", 0), (".inf", math.inf), ("-.inf", -math.inf),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("Norway: no", {"Norway": "no"}),
        ("010", "010"), ("0o10", "0o10"), ("0x1F", "0x1F"), ("0b1", "0b1"), ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("1__0", "1__0"), ("_1", "_1"), ("1_", "1_"), (".nan", ".nan"), ("1e", "1e"), ("e5", "e5"), (".", "."),
        ("'1e-5'", "1e-5"), ('"true"', "true"), ("<<", "<<"), ("=", "="), ("{1: a, null: b}", {"1": "a", "null": "b"}),
        ("|\n  two\n  lines\n", "two\nlines\n"), ("nDCG@10", "nDCG@10"), ("R(rel=2)@100", "R(rel=2)@100"),
        ("\u0661", "\u0661"),
    ],
)  # fmt: skip
def test_unquoted_text_means_what_it_looks_like(text, value):
    found = _yaml.plain(_yaml.parse(text, "r"))
    assert found == value
    assert type(found) is type(value)


REFUSED = [
    (
        "name: x\nbest: {}\nname: y\n",
        "r.yaml:3: the key 'name' is given twice, first at r.yaml:1\n  fix: keep one of them",
    ),
    ("name: !!str x\n", "r.yaml:1: the tag tag:yaml.org,2002:str is not allowed\n"),
    (
        "name: !!python/object/apply:os.system [ls]\n",
        "r.yaml:1: the tag tag:yaml.org,2002:python/object/apply:os.system",
    ),
    ("name: x\n---\nname: y\n", "r.yaml:2: a second document begins\n  fix: keep one recipe in one file"),
    ("? [a]\n: b\n", "r.yaml:1: a key must be plain text\n  fix: write 'name: value'"),
    ("name: *a\n", "r.yaml:1: the alias *a has no complete anchor before it\n  fix: define &a"),
    ("name: &a [*a]\n", "r.yaml:1: the alias *a has no complete anchor before it\n"),
    ("name: 1e999\n", "r.yaml:1: the number 1e999 is too large\n  fix: write .inf for infinity"),
    ("name: " + "9" * 5000, "r.yaml:1: the number 9999999999999999999999999999999999999999 is too large\n"),
    ('name: "\\ud800"\n', "r.yaml:1: half of a surrogate pair in text\n"),
    ('name: "\\UFFFFFFFF"\n', "r.yaml:1: not valid YAML: an escape or a number out of range\n"),
    ("name: \x01\n", "r.yaml:1: not valid YAML: character U+0001 is not allowed\n  fix: remove it"),
    ("name: [1,\nbest: {\n", "r.yaml:3: not valid YAML: while parsing a flow node, expected the node content"),
    ("name: x\n\tbest: y\n", "r.yaml:2: not valid YAML: while scanning for the next token, found character '\\t'"),
    ("a: " + "[" * 70 + "]" * 70, "r.yaml:1: nested deeper than 64 levels\n  fix: flatten the recipe"),
    ("a: " + "{a: " * 70 + "}" * 70, "r.yaml:1: nested deeper than 64 levels\n"),
    ("\n".join("  " * i + "a:" for i in range(70)), "r.yaml:65: nested deeper than 64 levels\n"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_a_recipe_has_no_use_for_is_refused_with_its_line(text, message):
    assert error(text).startswith(message)


def test_a_second_mapping_key_that_is_equal_only_after_unquoting_is_refused():
    assert "given twice" in error('name: x\n"name": y\n')


def test_aliases_are_read_but_a_bomb_is_refused_at_once():
    assert loads("name: &n x\nstages: [{loss: Contrast, prompts: {a: *n, b: *n}}]").stages[0].prompts == {
        "a": "x",
        "b": "x",
    }
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for previous, this in zip("abcdefgh", "bcdefghi"):
        bomb += f"{this}: &{this} [{', '.join([f'*{previous}'] * 10)}]\n"
    began = time.monotonic()
    assert "r.yaml:3: aliases expand to more than 1,000 values" in error(bomb)
    assert time.monotonic() - began < 1


# --- what fits a field, and in which words it is refused --------------------------------------------------------------

TRAIN = "name: x\nbest:\n  shuffle: true\n  {}\n"
FIELDS = [
    ("learning_rat: 1", ("learning_rat: unknown; did you mean 'learning_rate'? "
     "Known: learning_rate, steps, betas, precision, shuffle, dropout")),
    ("zzz: 1", "zzz: unknown. Known: learning_rate, steps, betas, precision, shuffle, dropout"),
    ("learning_rate: fast", "learning_rate: must be a number, got 'fast'"),
    ("learning_rate: '1e-5'", "learning_rate: must be a number, got '1e-5'\n  fix: write the number without quotes"),
    ("learning_rate: true", "learning_rate: must be a number, got true"),
    ("learning_rate:", "learning_rate: must be a number, got nothing"),
    ("learning_rate: .nan", "learning_rate: must be a number, got '.nan'"),
    ("learning_rate: " + "9" * 400, "learning_rate: must be a number, got a huge number"),
    ("steps: 1e5", "steps: must be a whole number or null, got 100000.0\n  fix: write 100000"),
    ("steps: 1.5", "steps: must be a whole number or null, got 1.5"),
    ("steps: true", "steps: must be a whole number or null, got true"),
    ("steps: 010", "steps: must be a whole number or null, got '010'"),
    ("precision: bf_16", "precision: must be one of 'float32', 'bf16', got 'bf_16'\n  fix: did you mean 'bf16'?"),
    ("precision: 3", "precision: must be one of 'float32', 'bf16', got 3"),
    ("betas: 0.9", "betas: must be a list, got 0.9\n  fix: write it as [a, b]"),
    ("betas: [0.9]", "betas: must be a list of 2, got a list of 1"),
    ("betas: [0.9, x]", "betas.1: must be a number, got 'x'"),
    ("betas: {a: 1}", "betas: must be a list, got a mapping with 'a'\n  fix: write it as [a, b]"),
    ("dropout: 1", "dropout: must be less than 1, got 1"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), FIELDS, ids=[line[:20] for line, _ in FIELDS])
def test_a_value_that_does_not_fit_is_refused_with_line_path_and_words(line, message):
    assert error(TRAIN.format(line)) == f"r.yaml:4: best.{message}"


def test_a_value_below_its_key_is_found_at_the_line_of_the_key():
    assert error("name: x\nbest:\n  - 5\n").startswith("r.yaml:2: best: must be a mapping or null, got a list of 1")


def test_bool_takes_only_booleans_and_text_only_text():
    assert error("name: x\nbest: {shuffle: yes}") == "r.yaml:2: best.shuffle: must be true or false, got 'yes'"
    assert error("name: x\nbest: {shuffle: 1}") == "r.yaml:2: best.shuffle: must be true or false, got 1"
    assert error("name: 12") == "r.yaml:1: name: must be text, got 12\n  fix: put it in quotes"
    assert error("name: true") == "r.yaml:1: name: must be text, got true\n  fix: put it in quotes"


OWN_FIX = "\n  fix: a class of your own is a dotted name: my_code.MyClass"
SLOT_FIX = "\n  fix: write Name, or {{Name: {{argument: value}}}}"
STAGE = "name: x\nstages:\n  - {}\n"
SLOTS = [
    ("train: {}", "stages.0: 'loss' must be given"),
    ("5", "stages.0: must be a mapping, got 5\n  fix: Known: loss, others, teacher, train, prompts, limit, extra"),
    ("loss: Contrst", ("stages.0.loss: {here} has no 'Contrst'; did you mean 'Contrast'? "
     "Known: Contrast, Margin, Plain{own}")),
    ("loss: helper", "stages.0.loss: {here} has no 'helper'. Known: Contrast, Margin, Plain{own}"),
    ("loss: Base", "stages.0.loss: {here} has no 'Base'. Known: Contrast, Margin, Plain{own}"),
    ("loss: Own", "stages.0.loss: {here} has no 'Own'. Known: Contrast, Margin, Plain{own}"),
    ("loss: {Contrast: {}, Margin: {}}", "stages.0.loss: must name one class of {here}, got a mapping with 'Contrast', "
     "'Margin'" + SLOT_FIX),
    ("loss: 3", "stages.0.loss: must name one class of {here}, got 3" + SLOT_FIX),
    ("loss: Margin", "stages.0.loss.Margin: 'margin' must be given"),
    ("loss: {Contrast: 0.1}", "stages.0.loss.Contrast: must be a mapping, got 0.1\n  fix: Known: temperature, kind"),
    ("loss: {Contrast: {temperatur: 1}}", ("stages.0.loss.Contrast.temperatur: unknown; did you mean 'temperature'? "
     "Known: temperature, kind")),
    ("loss: {Contrast: {temperature: -1}}", ("stages.0.loss.Contrast: temperature must be above 0, got -1.0\n"
     "  fix: try 0.05")),
    ("loss: {Margin: {margin: 1, power: 0}}", "stages.0.loss.Margin: power below 1"),
    ("{loss: Contrast, others: [Plain]}", "stages.0.others.0: Plain is not a Base. Known: Contrast, Margin{own}"),
    ("{loss: Contrast, teacher: 3}", "stages.0.teacher: must name one class of {here}, got 3" + SLOT_FIX),
    ("{loss: Contrast, limit: fast}", ("stages.0.limit: must be a whole number or a number or one of 'auto' or null, "
     "got 'fast'\n  fix: did you mean 'auto'?")),
    ("{loss: Contrast, limit: [1]}", ("stages.0.limit: must be a whole number or a number or one of 'auto' or null, "
     "got a list of 1")),
    ("{loss: Contrast, prompts: [a]}", "stages.0.prompts: must be a mapping, got a list of 1"),
    ("{loss: Contrast, prompts: {a: 1}}", "stages.0.prompts.a: must be text, got 1\n  fix: put it in quotes"),
    ("loss: no_such.Loss", ("stages.0.loss: cannot import no_such.Loss: ModuleNotFoundError: No module named "
     "'no_such'\n  fix: check the name; the code must be installed or on PYTHONPATH")),
    ("loss: os.path", "stages.0.loss: os.path is not a dataclass that can be made"),
    ("loss: a..b", "stages.0.loss: 'a..b' is not a dotted name\n  fix: write it as my_code.MyClass"),
    ("{loss: Contrast, teacher: {here}.Plain}", ("stages.0.teacher: {here}.Plain is not a Base\n"
     "  fix: derive it from {here}.Base")),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), SLOTS, ids=range(len(SLOTS)))
def test_a_component_that_does_not_fit_is_refused_in_these_words(line, message):
    line = line.replace("{here}", __name__)
    assert error(STAGE.replace("{}", line)).replace("r.yaml:3: ", "") == message.format(here=__name__, own=OWN_FIX)


def test_an_error_of_a_component_stands_at_the_line_of_the_argument_it_names():
    text = "name: x\nstages:\n  - loss:\n      Contrast:\n        kind: all\n        temperature: 0\n"
    assert error(text) == "r.yaml:6: stages.0.loss.Contrast: temperature must be above 0, got 0.0\n  fix: try 0.05"


def test_the_root_must_be_a_mapping_with_its_required_keys():
    assert error("") == "r.yaml:1: 'name' must be given"
    assert error("- a") == "r.yaml:1: must be a mapping, got a list of 1\n  fix: Known: name, stages, best"


def test_a_component_of_ones_own_is_a_dotted_name():
    found = loads(f"name: x\nstages: [{{loss: {{{__name__}.Own: {{words: [a, b]}}}}, others: [{__name__}.Own]}}]")
    assert found.stages[0].loss == Own(("a", "b"))
    assert found.stages[0].others == [Own()]


def test_unions_take_the_member_of_the_value_s_own_type():
    for text, value in (("3", 3), ("3.0", 3.0), ("auto", "auto"), ("null", None)):
        found = loads(f"name: x\nstages: [{{loss: Contrast, limit: {text}}}]").stages[0].limit
        assert (found, type(found)) == (value, type(value))


def test_build_takes_plain_data():
    data = {"name": "x", "stages": [{"loss": {"Contrast": {"temperature": 1}}, "extra": {"a": [1, None]}}]}
    assert recipe.build(Root, data) == Root("x", (Stage(Contrast(1.0), extra={"a": [1, None]}),))
    with pytest.raises(RecipeError, match=r"^plan: stages: must be a list, got 3"):
        recipe.build(Root, {"name": "x", "stages": 3}, name="plan")
    with pytest.raises(RecipeError, match="name: must be text"):
        recipe.build(Root, {"name": object()})


# --- lazy exports -----------------------------------------------------------------------------------------------------


def test_only_the_named_export_is_imported_until_a_suggestion_is_needed(monkeypatch):
    asked: list[str] = []

    def lazily(name: str) -> Any:
        asked.append(name)
        if name == "Absent":
            raise ImportError("needs an extra")
        return {"Light": Contrast, "Heavy": Margin}[name]

    module = ModuleType("lazy_room")
    vars(module).update(__all__=["Light", "Heavy", "Absent"], __getattr__=lazily)
    monkeypatch.setitem(sys.modules, "lazy_room", module)
    slot = Annotated[Any, Slot("lazy_room")]
    holder = type("Holder", (), {"__annotations__": {"part": slot}, "__module__": __name__})
    holder = dataclass(frozen=True)(holder)
    assert recipe.loads("part: Light", holder).part == Contrast()  # pyright: ignore
    assert set(asked) == {"Light"}
    with pytest.raises(RecipeError, match=r"lazy_room has no 'Haevy'; did you mean 'Heavy'\? Known: Light, Heavy\n"):
        recipe.loads("part: Haevy", holder)


# --- overrides --------------------------------------------------------------------------------------------------------


def test_overrides_reach_any_depth():
    found = loads(
        GOOD,
        "stages.0.train.learning_rate=3e-6",
        "stages.0.loss.Contrast.temperature=1",
        "stages.1.loss.Contrast.kind=all",  # a bare name gets arguments
        "stages.1.train.steps=5",  # a key that the file leaves out
        "stages.0.others=[{Margin: {margin: 2}}]",
        "best={}",
        "name=other",
    )
    assert found.stages[0].train == Train(learning_rate=3e-6, steps=400_000, betas=(0.9, 1.0))
    assert found.stages[0].loss == Contrast(1.0)
    assert found.stages[1].loss == Contrast(kind="all")
    assert found.stages[1].train.steps == 5
    assert found.stages[0].others == [Margin(2.0)]
    assert (found.best, found.name) == (Train(), "other")
    assert loads(GOOD, "stages.0.train.steps=null").stages[0].train.steps is None
    assert loads(GOOD, "stages.0.train.steps=").stages[0].train.steps is None
    assert loads(GOOD, "name=a", "name=b").name == "b"


def test_an_override_reaches_into_a_class_with_a_dotted_name():
    text = f"name: x\nstages: [{{loss: {{{__name__}.Own: {{words: [a]}}}}}}]"
    assert loads(text, f"stages.0.loss.{__name__}.Own.words.0=b").stages[0].loss == Own(("b",))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stages.0.train.learning_rat=1", ("stages.0.train.learning_rat: unknown; did you mean 'learning_rate'? "
         "Known: learning_rate, steps, betas, precision, shuffle, dropout")),
        ("stags.0.train.steps=1", "stags: unknown; did you mean 'stages'? Known: name, stages, best"),
        ("stages.2.train.steps=1", "stages.2: no such item; a list of 2 has a number from 0 to 1"),
        ("stages.-1.train.steps=1", "stages.-1: no such item; a list of 2 has a number from 0 to 1"),
        ("stages.x=1", "stages.x: no such item; a list of 2 has a number from 0 to 1"),
        ("name.x=1", "name: holds 'demo', which has no 'x'"),
        ("stages.0.train.steps=abc", "stages.0.train.steps: must be a whole number or null, got 'abc'"),
        ("stages.0.loss.temperature=1", (f"stages.0.loss: must name one class of {__name__}, "
         "got a mapping with 'Contrast', "
         "'temperature'\n  fix: write Name, or {Name: {argument: value}}")),
        ("best=[", ("not valid YAML: while parsing a flow node, expected the node content, but found '<stream end>'\n"
         "  fix: check indentation, brackets and quotes around that line")),
    ],
)  # fmt: skip
def test_a_wrong_override_is_refused_and_named(setting, message):
    found = error(GOOD, setting)
    where = "r.yaml:3" if "loss.temperature" in setting else f"override '{setting}'"
    assert found == f"{where}: {message}"


@pytest.mark.parametrize("setting", ["name", "=1", "a..b=1", ".a=1", ""])
def test_an_override_without_path_and_value_is_a_usage_error(setting):
    with pytest.raises(UsageError) as caught:
        loads(GOOD, setting)
    assert str(caught.value).endswith("an override must read path=value\n  fix: e.g. stages.0.train.steps=100")


# --- round trip -------------------------------------------------------------------------------------------------------

TRAPS = [
    "1e-5",
    "no",
    "~",
    "null",
    "010",
    "1:30",
    "2001-01-01",
    "<<",
    "=",
    "-",
    "#",
    "'",
    '"',
    "!x",
    "&a",
    "*a",
    "%",
    "@",
]
TRAPS += ["`", "{", "[", "400_000", ".inf", "\ufeff", "\u2028", "\x00", "\x7f", "é"]
TRAPS += ["", "- a", "a: b", " x ", "\n", "a\n b\n", "\x85", "\t"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(TRAPS)
FLOAT = st.floats(allow_nan=False)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CONTRAST = st.builds(Contrast, st.floats(1e-300, 1e300), st.sampled_from(["each", "all"]))
MARGIN = st.builds(Margin, FLOAT, st.integers(1, 10**30))
OWN = st.builds(Own, st.lists(TEXT, max_size=3).map(tuple))
TRAINS = st.builds(
    Train, FLOAT, st.none() | st.integers(), st.tuples(FLOAT, FLOAT), st.sampled_from(["float32", "bf16"]),
    st.booleans(), st.floats(0, 0.99),
)  # fmt: skip
LIMIT = st.none() | st.integers() | FLOAT | st.just("auto")
STAGES = st.builds(
    Stage, CONTRAST | MARGIN | OWN | st.just(Plain()), st.lists(CONTRAST | OWN, max_size=2), st.none() | MARGIN, TRAINS,
    st.dictionaries(TEXT, TEXT, max_size=3), LIMIT, ANY,
)  # fmt: skip
ROOTS = st.builds(Root, TEXT, st.lists(STAGES, max_size=2).map(tuple), st.none() | TRAINS)


@settings(max_examples=150)
@given(ROOTS)
def test_what_is_dumped_loads_back_equal(root):
    again = recipe.loads(recipe.dump(root), Root)
    assert again == root
    assert repr(again) == repr(root)  # the types of numbers too


@pytest.mark.soak
@settings(max_examples=5000)
@given(ROOTS)
def test_five_thousand_recipes_load_back_equal(root):
    assert repr(recipe.loads(recipe.dump(root), Root)) == repr(root)


def test_a_dump_reads_well_and_means_the_same_to_other_yaml_readers():
    text = recipe.dump(loads(GOOD))
    assert text.startswith("name: demo\nstages:\n- loss:\n    Contrast:\n      temperature: 0.1\n      kind: each\n")
    assert "betas: [0.9, 1.0]" in text
    assert yaml.safe_load(text) == recipe.plain(loads(GOOD))
    assert yaml.safe_load(recipe.dump(Root("no", (), Train(1e-5)))) == recipe.plain(Root("no", (), Train(1e-5)))


def test_what_no_recipe_can_hold_is_not_dumped():
    with pytest.raises(RecipeError, match="a recipe cannot hold PosixPath"):
        recipe.dump(Root("x", (Stage(Contrast(), extra=Path("x")),)))


# --- hostile bytes ----------------------------------------------------------------------------------------------------

NASTY = [
    b"&a ",
    b"*a",
    b"!!",
    b"!<x>",
    b"|\n",
    b">-",
    b"---\n",
    b"...",
    b"%YAML 9.9\n",
    b"? ",
    b": ",
    b"- ",
    b"[",
    b"]",
]
NASTY += [b"{", b"}", b"\t", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf", b'"\\x', b"'", b"#", b",", b"9" * 5000, b"1e999"]
NASTY += [b"\xc2\x85", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"\n", b"  ", b"<<: ", b"@", b"`", b"%" * 3, b"[" * 90]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """`data` after one to five small accidents."""
    for _ in range(rng.randint(1, 5)):
        i, j = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        piece = rng.choice(
            [rng.choice(NASTY), bytes([rng.randrange(256)]), data[i:j], rng.choice(string.printable).encode()]
        )
        data = rng.choice(
            [data[:i] + piece + data[i:], data[:i] + data[j:], data[:i] + piece + data[i + 1 :], data[:j]]
        )
    return data[:5000]


def outcome(make: Callable[[], Root]) -> Root | RankwrightError:
    try:
        return make()
    except RankwrightError as error:
        return error


def attack(seeds: range, path: Path) -> int:
    refused = 0
    for seed in seeds:
        path.write_bytes(mutate(GOOD.encode(), random.Random(seed)))
        began = time.monotonic()
        found = outcome(lambda: recipe.load(path, Root))
        if isinstance(found, RankwrightError):
            assert found.code == 2, seed
            assert found.where, seed
            refused += 1
        else:
            assert recipe.loads(recipe.dump(found), Root) == found, seed
        assert time.monotonic() - began < 2, seed
    return refused


def test_mutated_recipes_load_or_are_typed_errors(tmp_path):
    refused = attack(range(800), tmp_path / "r.yaml")
    assert 250 < refused < 800  # neither all nor none: the mutations reach deep


@pytest.mark.soak
def test_many_mutated_recipes_load_or_are_typed_errors(tmp_path):
    attack(range(10_000, 60_000), tmp_path / "r.yaml")


@settings(max_examples=200)
@given(st.text(max_size=60), st.lists(st.text(max_size=20), max_size=2))
def test_any_text_and_any_override_load_or_are_typed_errors(text, overrides):
    found = outcome(lambda: recipe.loads(text, Root, overrides=overrides))
    assert isinstance(found, Root) or found.code == 2


# --- schema -----------------------------------------------------------------------------------------------------------


def definition(name: str) -> dict[str, Any]:
    return recipe.schema(Root)["$defs"][f"{__name__}.{name}"]


def test_the_schema_describes_every_component():
    found = recipe.schema(Root)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["$ref"] == f"#/$defs/{__name__}.Root"
    assert json.loads(json.dumps(found)) == found
    assert definition("Contrast") == {
        "type": "object",
        "description": "Pulls and pushes.",
        "properties": {
            "temperature": {"type": "number", "default": 0.05, "description": "divides the scores."},
            "kind": {"enum": ["each", "all"], "default": "each", "description": "which one."},
        },
        "required": [],
        "additionalProperties": False,
    }
    assert definition("Margin")["required"] == ["margin"]
    assert definition("Root")["properties"]["stages"]["items"] == {"$ref": f"#/$defs/{__name__}.Stage"}
    slot, restricted = found["$defs"][__name__], found["$defs"][f"{__name__}:Base"]
    assert set(slot["anyOf"][0]["properties"]) == {"Contrast", "Margin", "Plain"}
    assert set(restricted["anyOf"][0]["properties"]) == {"Contrast", "Margin"}
    assert slot["anyOf"][1] == {"enum": ["Contrast", "Plain"]}  # Margin cannot do without arguments


def test_the_schema_judges_like_the_loader():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(recipe.schema(Root))
    jsonschema.Draft202012Validator.check_schema(validator.schema)
    good = recipe.plain(loads(GOOD))
    assert not list(validator.iter_errors(good))
    for change in ({"nam": 1}, {"name": 3}, {"stages": [{"loss": "Margin"}]}, {"stages": [{"loss": {"Contrst": {}}}]}):
        assert list(validator.iter_errors(good | change)), change
        with pytest.raises(RecipeError):
            recipe.build(Root, good | change)
    for fine in (
        {"best": {"steps": "400_000"}},
        {"stages": [{"loss": "my_code.Loss"}]},
        {"stages": [{"loss": {"Plain": None}}]},
    ):
        assert not list(validator.iter_errors(good | fine)), fine


# --- cost -------------------------------------------------------------------------------------------------------------


def test_loading_a_recipe_imports_neither_torch_nor_numpy():
    script = """
        import sys
        from dataclasses import dataclass
        from rankwright import recipe
        @dataclass(frozen=True)
        class Recipe:
            name: str
            rate: float = 1.0
        assert recipe.loads("name: x\\nrate: 1e-5", Recipe) == Recipe("x", 1e-5)
        assert recipe.schema(Recipe) and recipe.dump(Recipe("x"))
        assert not {"torch", "transformers", "numpy", "jaxtyping"} & set(sys.modules), "heavy import"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=110)


# --- the slots of a real recipe ---------------------------------------------------------------------------------------

_REAL = """
model: {Dense: {backbone: some/model}}
stages:
  - data: [{Judged: {dataset: d}}]
    group: OneRelevant
    batches: Shuffled
    objective: [{loss: InfoNCE}]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batches: Shuffled", "batches: OneRelevant", "OneRelevant is not a Batches. Known: ByDocument, ByLength, "),
        ("group: OneRelevant", "group: Shuffled", "Shuffled is not a Group. Known: HardMargin, MarginBins, "),
        ("Judged: {dataset: d}", "Top", "Top is not a Source. Known: Judged"),
        ("{Dense: {backbone: some/model}}", "Lora", "Lora is not a Model. Known: Cross, Dense"),
        ("loss: InfoNCE", "loss: InfoNEC", "has no 'InfoNEC'; did you mean 'InfoNCE'? Known: ADRMSE, ApproxMRR, "),
    ],
)
def test_a_slot_takes_and_lists_only_what_fits_it(old, new, message):
    from rankwright.plan import Recipe

    assert recipe.loads(_REAL, Recipe)
    with pytest.raises(RecipeError, match=re.escape(message)):
        recipe.loads(_REAL.replace(old, new), Recipe)


def test_the_schema_lists_only_what_fits_a_slot():
    from rankwright.plan import Recipe

    definitions = recipe.schema(Recipe)["$defs"]
    slots = {n.split(":")[1]: set(d["anyOf"][0]["properties"]) for n, d in definitions.items() if ":" in n}
    assert slots["Batches"] == {"ByDocument", "ByLength", "ByTopic", "Mixed", "Shuffled"}
    assert slots["Group"] == {"HardMargin", "MarginBins", "OneRelevant", "PerGrade", "Random", "Top", "Window"}
    assert slots["Source"] == {"Judged", "Ranking", "Scored", "Triples"}
    assert slots["Model"] == {"Cross", "Dense", "Late"}
