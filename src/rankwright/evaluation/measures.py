"""The names of measures: ir-measures' syntax (`nDCG@10`, `RR(rel=2)@10`) to checked `Measure` values and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, NamedTuple

from ..errors import UsageError


class _Kind(NamedTuple):
    """What a measure's name may be followed by, and what else it is called."""

    parameter: Literal["rel", "dcg", "match"] | None
    needs_cutoff: bool
    aliases: tuple[str, ...]  # accepted
    habits: tuple[str, ...]  # of other tools; refused with a suggestion, as they often mean something else


_KINDS = {
    "nDCG": _Kind("dcg", False, ("NDCG",), ("ndcg", "ndcgcut")),
    "RR": _Kind("rel", False, ("MRR",), ("reciprank", "mrrcut")),
    "R": _Kind("rel", True, ("Recall",), ("rec",)),
    "P": _Kind("rel", True, ("Precision",), ("prec",)),
    "AP": _Kind("rel", False, ("MAP",), ("mapcut",)),
    "Success": _Kind("rel", True, (), ("hit", "hits", "hitrate")),
    "Judged": _Kind(None, False, (), ("judgedrate",)),
    "Accuracy": _Kind("match", True, (), ("acc", "topk", "topkaccuracy", "hasanswer")),
}
_NAMES = {alias: name for name, kind in _KINDS.items() for alias in (name, *kind.aliases)}
_SPELLINGS = {known.lower(): name for known, name in _NAMES.items()} | {
    habit: name for name, kind in _KINDS.items() for habit in kind.habits
}
_OTHERS = ("err", "bpref", "rprec", "infap", "rbp", "ap_ia", "err_ia", "iprec")  # not ours: nothing near is meant
_GAINS = ("log2", "exp-log2")
_MATCHES = ("string", "regex")
_SYNTAX = re.compile(
    r"\s*(?P<name>\w+)\s*(?:\((?P<parameters>[^()]*)\))?\s*(?:@\s*(?P<cutoff>[0-9]{1,9}))?\s*", re.ASCII
)
_PARAMETER = re.compile(r"""\s*(?P<key>\w+)\s*=\s*(?P<quote>['"]?)(?P<value>[\w.+-]+)(?P=quote)\s*""", re.ASCII)


@dataclass(frozen=True)
class Measure:
    """One measure; `str(measure)` is its canonical name, equal to that of ir-measures but for Accuracy.

    Accuracy is that of open-domain question answering (arXiv:2004.04906): whether one of the first k passages holds an
    answer. It needs answers, the others need judgements.

    Args:
        name: ``nDCG``, ``RR``, ``R``, ``P``, ``AP``, ``Success``, ``Judged`` or ``Accuracy``.
        cutoff: ranks that are looked at; None: all. ``R``, ``P``, ``Success`` and ``Accuracy`` need one.
        rel: the lowest grade that counts as relevant; not for nDCG (graded), Judged (every judgement counts), Accuracy.
        dcg: nDCG's gain of grade g: ``log2``: g, as trec_eval; ``exp-log2``: 2^g - 1 (Burges et al. 2005).
        match: what an answer of Accuracy is: ``string``: its tokens stand in the passage; ``regex``: a pattern.

    Raises:
        UsageError: there is no such measure, or it does not take the parameter.
    """

    name: str
    cutoff: int | None = None
    rel: int = 1
    dcg: str = "log2"
    match: str = "string"

    def __post_init__(self) -> None:
        kind = _KINDS.get(self.name)
        if kind is None:
            raise UsageError(f"there is no measure {self.name!r}", fix=_suggest(self.name, self.cutoff))
        if self.cutoff is None and kind.needs_cutoff:
            raise UsageError(f"{self.name} needs a cutoff", fix=f"e.g. {self.name}@10")
        if self.cutoff is not None and self.cutoff < 1:
            raise UsageError(f"{self.name}: the cutoff must be at least 1, got {self.cutoff}")
        if self.rel < 1:
            raise UsageError(f"{self.name}: rel must be at least 1, got {self.rel}", fix="grade 0 means not relevant")
        if self.dcg not in _GAINS:
            raise UsageError(f"{self.name}: dcg must be one of {_GAINS}, got {self.dcg!r}")
        if self.match not in _MATCHES:
            raise UsageError(f"{self.name}: match must be one of {_MATCHES}, got {self.match!r}")
        changed = (("rel", self.rel != 1), ("dcg", self.dcg != "log2"), ("match", self.match != "string"))
        for parameter, given in changed:
            if given and kind.parameter != parameter:
                raise UsageError(f"{self.name} has no parameter {parameter!r}", fix=_parameters(self.name))

    @property
    def definition(self) -> str:
        """What the evidence means to it: its gain, the lowest grade that counts, or how answers are found."""
        if self.name == "Accuracy":
            return (
                "an answer's tokens in the passage" if self.match == "string" else "an answer's pattern in the passage"
            )
        if self.name == "nDCG":
            return "gain = grade" if self.dcg == "log2" else "gain = 2^grade - 1"
        return "any grade counts" if self.name == "Judged" else f"relevant from grade {self.rel}"

    @property
    def of_answers(self) -> bool:
        """Whether it looks for answers in passages; the others look at judgements."""
        return self.name == "Accuracy"

    def __str__(self) -> str:
        parameter = f"(rel={self.rel})" if self.rel != 1 else f"(dcg={self.dcg!r})" if self.dcg != "log2" else ""
        parameter = parameter or (f"(match={self.match!r})" if self.match != "string" else "")
        return f"{self.name}{parameter}" + ("" if self.cutoff is None else f"@{self.cutoff}")


def parse(names: str | Measure | Sequence[str | Measure]) -> list[Measure]:
    """Measures by their ir-measures names, in the given order; two names of one measure make one.

    Raises:
        UsageError: a name is unknown or malformed; the fix suggests what was meant.
    """
    names = [names] if isinstance(names, (str, Measure)) else names
    return list(dict.fromkeys(name if isinstance(name, Measure) else _parse(name) for name in names))


def stated(names: Sequence[str | Measure]) -> str:
    """How measures read the judgements, in one line: ``nDCG@10: gain = grade; R@100, RR@10: relevant from grade 1``."""
    groups: dict[str, list[str]] = {}
    for measure in parse(names):
        groups.setdefault(measure.definition, []).append(str(measure))
    return "; ".join(f"{', '.join(measures)}: {definition}" for definition, measures in groups.items())


def _parse(text: str) -> Measure:
    found = _SYNTAX.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is not the name of a measure", fix=_suggest(*_split(text)))
    cutoff = None if found["cutoff"] is None else int(found["cutoff"])
    if found["name"] not in _NAMES:
        name, implied = _split(found["name"])
        raise UsageError(f"there is no measure {text!r}", fix=_suggest(name, cutoff or implied))
    name, rel, words = _NAMES[found["name"]], 1, dict[str, str]()
    given: set[str] = set()
    for part in (found["parameters"] or "").split(",") if found["parameters"] else ():
        parameter = _PARAMETER.fullmatch(part)
        if parameter is None or parameter["key"] != _KINDS[name].parameter or parameter["key"] in given:
            raise UsageError(f"{text!r}: {part.strip()!r} does not fit {name}", fix=_parameters(name))
        given.add(parameter["key"])
        if parameter["key"] == "rel":
            if not parameter["value"].isdecimal():
                raise UsageError(f"{text!r}: rel must be a whole number, got {parameter['value']!r}")
            rel = int(parameter["value"])
        else:
            words[parameter["key"]] = parameter["value"]
    return Measure(name, cutoff, rel=rel, dcg=words.get("dcg", "log2"), match=words.get("match", "string"))


def _split(text: str) -> tuple[str, int | None]:
    """The word and the number in another tool's spelling: ``ndcg_cut_10``, ``hit.5``, ``recall``."""
    word, number = re.match(r"[A-Za-z_]*", text), re.search(r"([0-9]{1,9})\s*$", text, re.ASCII)
    return word[0] if word else "", int(number[1]) if number else None


def _suggest(word: str, cutoff: int | None) -> str:
    near = get_close_matches(word.replace("_", "").lower(), _SPELLINGS, n=1, cutoff=0.75)
    if not near or word.lower() in _OTHERS:
        return f"choose from {', '.join(_KINDS)}, e.g. nDCG@10, RR(rel=2)@10, R@100"
    name = _SPELLINGS[near[0]]
    return f"did you mean {Measure(name, cutoff or (10 if _KINDS[name].needs_cutoff else None))}?"


def _parameters(name: str) -> str:
    example = {
        "rel": f"{name}(rel=2)@10", "dcg": f"{name}(dcg='exp-log2')@10", "match": f"{name}(match='regex')@20",
        None: f"{name}@10",
    }  # fmt: skip
    return f"write e.g. {example[_KINDS[name].parameter]}"
