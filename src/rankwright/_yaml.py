"""YAML for recipes: a strict reader whose nodes know their line, dotted overrides, and a writer that it reads back.

PyYAML tokenises; what a scalar means is decided here, because YAML 1.1 reads ``1e-5`` as text, ``no`` as false, ``010``
as 8 and ``1:30`` as 90, keeps the last of two equal keys and lets a few aliases grow without bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .errors import RecipeError, UsageError

MAX_BYTES = 1 << 17
MAX_DEPTH = 64
MAX_EXPANDED = 1000

_DIGITS = r"[0-9](?:_?[0-9])*"
_WHOLE = r"(?:0|[1-9](?:_?[0-9])*)"
_EXPONENT = r"[eE][-+]?[0-9]+"
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(rf"[-+]?{_WHOLE}\Z")
_FLOAT = re.compile(
    rf"[-+]?(?:(?:{_WHOLE}\.(?:{_DIGITS})?|\.{_DIGITS})(?:{_EXPONENT})?|{_WHOLE}{_EXPONENT}|\.inf)\Z", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Node:
    """A parsed value and where it stands; `value` is a dict of nodes, a list of nodes or a scalar."""

    value: Any
    where: str


def plain(node: Node) -> Any:
    """The value without its places."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def wrap(value: Any, where: str) -> Node:
    """Plain data as nodes that all stand at `where`."""
    if isinstance(value, dict):
        return Node({str(key): wrap(child, where) for key, child in value.items()}, where)
    if isinstance(value, list | tuple):
        return Node([wrap(child, where) for child in value], where)
    return Node(value, where)


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """The text of a recipe file (UTF-8, at most `MAX_BYTES`)."""
    if not path.is_file():
        what = "is a folder, not a recipe" if path.is_dir() else "no such recipe"
        raise RecipeError(what, where=path, fix="give the path of a YAML file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=path, fix="check its permissions") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError("not UTF-8 text", where=f"{path}:{line}", fix="save the file as UTF-8") from None


def parse(text: str, name: str, *, numbered: bool = True) -> Node:
    """The one document of `text`; errors and nodes say ``name:line`` (only ``name`` unless `numbered`)."""
    if len(text) > MAX_BYTES:
        raise RecipeError(f"longer than {MAX_BYTES:,} bytes", where=name, fix="keep data out of the recipe")
    return _Parser(text, name, numbered).document()


class _Parser:
    """Turns PyYAML's events into nodes, refusing what a recipe has no use for."""

    def __init__(self, text: str, name: str, numbered: bool) -> None:
        self._text, self._name, self._numbered = text, name, numbered
        self._loader: yaml.SafeLoader | None = None
        self._anchors: dict[str, Node] = {}
        self._expanded = 0

    def document(self) -> Node:
        self._next()
        if isinstance(self._next(), yaml.StreamEndEvent):
            return Node(None, self._where(1))
        root = self._node(self._next(), 1)
        self._next()
        if not isinstance(end := self._next(), yaml.StreamEndEvent):
            self._refuse(end, "a second document begins", "keep one recipe in one file")
        return root

    def _where(self, line: int) -> str:
        return f"{self._name}:{line}" if self._numbered else self._name

    def _line(self, event: Any) -> int:
        return event.start_mark.line + 1

    def _refuse(self, event: Any, what: str, fix: str) -> NoReturn:
        raise RecipeError(what, where=self._where(self._line(event)), fix=fix)

    def _next(self) -> Any:
        try:
            self._loader = self._loader or yaml.SafeLoader(self._text)
            return self._loader.get_event()
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            what = f"not valid YAML: character U+{error.character:04X} is not allowed"
            raise RecipeError(what, where=self._where(line), fix="remove it") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            reason = ", ".join(part for part in (error.context, error.problem) if part)
            fix = "check indentation, brackets and quotes around that line"
            raise RecipeError(f"not valid YAML: {reason}", where=self._where(line), fix=fix) from None
        except (ValueError, OverflowError):  # PyYAML's scanner on an escape or a version number out of range
            line = self._loader.line + 1 if self._loader else 1
            what = "not valid YAML: an escape or a number out of range"
            raise RecipeError(what, where=self._where(line), fix="write the character itself") from None

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag is not None:
            self._refuse(
                event, f"the tag {event.tag} is not allowed", "remove it; types follow from the recipe's schema"
            )
        if depth > MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH} levels", "flatten the recipe")
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                value.append(self._node(item, depth + 1))
        else:
            value = self._mapping(depth)
        node = Node(value, self._where(self._line(event)))
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _mapping(self, depth: int) -> dict[str, Node]:
        children: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(key := self._next(), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent) or key.tag is not None:
                self._refuse(key, "a key must be plain text", "write 'name: value'")
            name, line = key.value, self._line(key)
            self._check_text(key)
            if name in children:
                first = self._where(lines[name])
                self._refuse(key, f"the key '{name}' is given twice, first at {first}", "keep one of them")
            lines[name] = line
            children[name] = replace(self._node(self._next(), depth + 1), where=self._where(line))
        return children

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self._anchors:
            self._refuse(
                event, f"the alias *{event.anchor} has no complete anchor before it", f"define &{event.anchor}"
            )
        node = self._anchors[event.anchor]
        self._expanded += _count(node, MAX_EXPANDED + 1)
        if self._expanded > MAX_EXPANDED:
            self._refuse(event, f"aliases expand to more than {MAX_EXPANDED:,} values", "write the values out")
        return node

    def _check_text(self, event: Any) -> None:
        try:
            event.value.encode()
        except UnicodeEncodeError:
            self._refuse(event, "half of a surrogate pair in text", "write the character itself")

    def _scalar(self, event: Any) -> Any:
        self._check_text(event)
        if event.style is not None:
            return event.value
        value = resolve(event.value)
        if value in (math.inf, -math.inf) and ".inf" not in event.value:
            self._refuse(event, f"the number {event.value[:40]} is too large", "write .inf for infinity")
        return value


def resolve(text: str) -> str | int | float | bool | None:
    """What unquoted text means: null, a boolean, a number (infinite when Python cannot hold it) or just text."""
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if not (_INT.match(text) or _FLOAT.match(text)):
        return text
    try:
        return int(text) if _INT.match(text) else float(text.replace(".inf", "inf"))
    except ValueError:  # more digits than Python converts
        return math.inf


def _count(node: Node, limit: int) -> int:
    """Nodes below and including `node`, counted no further than `limit`."""
    todo, count = [node], 0
    while todo and count < limit:
        count += 1
        value = todo.pop().value
        if isinstance(value, dict | list):
            todo.extend(value.values() if isinstance(value, dict) else value)
    return count


# --- overrides --------------------------------------------------------------------------------------------------------


def override(root: Node, settings: Iterable[str]) -> Node:
    """`root` with each ``dotted.path=value`` put in; what the path may name is for the builder to judge."""
    for setting in settings:
        where = f"override '{setting}'"
        path, equals, text = setting.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if not equals or not all(keys):
            raise UsageError("an override must read path=value", where=where, fix="e.g. stages.0.train.steps=100")
        root = _put(root, keys, parse(text, where, numbered=False), where=where, path="")
    return root


def _put(node: Node, keys: Sequence[str], new: Node, *, where: str, path: str) -> Node:
    if not keys:
        return new
    value = {} if node.value is None else node.value
    if value == keys[0]:  # a bare component name: from here on one with arguments
        value = {keys[0]: Node(None, where)}
    if isinstance(value, list):
        inner = f"{path}.{keys[0]}".strip(".")
        if not (keys[0].isascii() and keys[0].isdigit() and len(keys[0]) < 10 and int(keys[0]) < len(value)):
            which = f"a number from 0 to {len(value) - 1}" if value else "nothing: it is empty"
            raise RecipeError(f"{inner}: no such item; a list of {len(value)} has {which}", where=where)
        index = int(keys[0])
        child = _put(value[index], keys[1:], new, where=where, path=inner)
        return replace(node, value=[*value[:index], child, *value[index + 1 :]])
    if not isinstance(value, dict):
        raise RecipeError(f"{path or 'the recipe'}: holds {value!r}, which has no '{keys[0]}'", where=where)
    joined = [".".join(keys[:n]) for n in range(len(keys), 0, -1)]
    key = next((name for name in joined if name in value), keys[0])  # my_code.MyLoss is one key with a dot in it
    child = value.get(key, Node(None, where))
    rest = keys[key.count(".") + 1 :]
    inner = f"{path}.{key}".strip(".")
    return replace(node, value=value | {key: _put(child, rest, new, where=where, path=inner)})


# --- writing ----------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `parse`, or a reader of YAML 1.1, would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def list_(self, data: list[Any]) -> yaml.Node:
        flat = not any(isinstance(item, dict | list) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)

    def text(self, data: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(list, _Dumper.list_)
_Dumper.add_representer(str, _Dumper.text)
for _tag, _pattern in (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT)):
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)


def emit(value: Any) -> str:
    """Plain data as YAML that `parse` reads back to an equal value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
