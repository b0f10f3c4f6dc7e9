"""Recipes: YAML and overrides to checked objects and back, and their JSON Schema; knows no component.

A recipe class is a frozen dataclass; its annotations are the schema. A field that holds a component is annotated
``Annotated[Any, Slot("rankwright.losses")]`` and given as ``Name`` or ``{Name: {argument: value}}``.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from . import _fields, _yaml
from ._fields import Slot
from ._yaml import Node
from .errors import RankwrightError, RecipeError

__all__ = ["Slot", "build", "dump", "emit", "load", "loads", "plain", "read_plain", "schema"]

T = TypeVar("T")

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+\Z")
_MISFIT = object()
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


# --- reading ----------------------------------------------------------------------------------------------------------


def load(path: str | Path, cls: type[T], *, overrides: Sequence[str] = ()) -> T:
    """The recipe in a YAML file as a `cls`.

    Args:
        overrides: ``dotted.path=value`` each, the value as in YAML: ``stages.0.train.learning_rate=3e-6``.

    Raises:
        RecipeError: with ``file:line``, the dotted path and what would fit.
    """
    path = Path(path)
    return loads(_yaml.read(path), cls, name=str(path), overrides=overrides)


def loads(text: str, cls: type[T], *, name: str = "recipe", overrides: Sequence[str] = ()) -> T:
    """`load` from a string; `name` stands for the file in errors."""
    return _dataclass(cls, _yaml.override(_yaml.parse(text, name), overrides), "")


def build(cls: type[T], value: Any, *, name: str = "recipe") -> T:
    """A `cls` from plain dicts, lists and scalars; `name` stands for the place in errors.

    Raises:
        RecipeError: with the dotted path and what would fit.
    """
    return _dataclass(cls, _yaml.wrap(value, name), "")


def read_plain(path: str | Path) -> Any:
    """Any YAML or JSON file as dicts, lists and scalars, under the rules for recipes.

    Raises:
        RecipeError: with ``file:line``.
    """
    return _yaml.plain(_yaml.parse(_yaml.read(Path(path)), str(path)))


def _error(node: Node, path: str, what: str, fix: str | None = None) -> RecipeError:
    return RecipeError(f"{path}: {what}" if path else what, where=node.where, fix=fix)


def _join(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)


def _suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'? Known: x, y`` (the question only when something is close)."""
    known = list(known)
    close = difflib.get_close_matches(name[:200], known, n=1, cutoff=0.6)
    question = f"; did you mean '{close[0]}'?" if close else "."
    return f"{question} Known: {', '.join(known) or 'none'}"


def _dataclass(cls: type[T], node: Node, path: str) -> T:
    given: dict[str, Node] = {} if node.value is None else node.value
    if not isinstance(given, dict):
        raise _error(
            node, path, f"must be a mapping, got {_show(node.value)}", f"Known: {', '.join(_fields.fields(cls))}"
        )
    fields = _fields.fields(cls)
    for key, child in given.items():
        if key not in fields:
            raise _error(child, _join(path, key), f"unknown{_suggest(key, fields)}")
    if missing := [name for name, field in fields.items() if _fields.required(field) and name not in given]:
        names = ", ".join(f"'{name}'" for name in missing)
        raise _error(node, path, f"{names} must be given")
    hints = _hints(cls, node, path)
    values = {key: _convert(hints[key], child, _join(path, key)) for key, child in given.items()}
    try:
        return cls(**values)
    except (RankwrightError, ValueError, TypeError) as error:
        what = error.what if isinstance(error, RankwrightError) else str(error)
        culprit = given.get(what.partition(" ")[0].strip("'\"`:,"), node)  # a message that begins with a field's name
        kind = type(error) if isinstance(error, RankwrightError) else RecipeError
        fix = error.fix if isinstance(error, RankwrightError) else None
        raise kind(f"{path}: {what}" if path else what, where=culprit.where, fix=fix) from error


def _hints(cls: type, node: Node, path: str) -> dict[str, Any]:
    try:
        return _fields.hints(cls)
    except (NameError, TypeError) as error:
        raise _error(node, path, f"the annotations of {cls.__name__} cannot be read: {error}") from error


# --- values -----------------------------------------------------------------------------------------------------------


def _convert(annotation: Any, node: Node, path: str) -> Any:
    arms = _fields.arms(annotation)
    if len(arms) > 1:
        return _union(arms, node, path)
    bare, slot = _fields.split(annotation)
    shape = _fields.shape(annotation)
    if slot:
        return _component(slot, bare, node, path)
    if shape == "any":
        return _yaml.plain(node)
    if shape == "dataclass":
        return _dataclass(get_origin(bare) or bare, node, path)
    if shape == "list":
        return _list(bare, node, path)
    if shape == "mapping":
        if not isinstance(node.value, dict):
            raise _error(node, path, f"must be a mapping, got {_show(node.value)}")
        value = (*get_args(bare), Any, Any)[1]
        return {key: _convert(value, child, _join(path, key)) for key, child in node.value.items()}
    return _leaf(annotation, node, path)


def _union(arms: list[Any], node: Node, path: str) -> Any:
    """The arm whose shape fits what is written; of several, the first that takes it."""
    if node.value is None and type(None) in arms:
        return None
    written = {dict: ("slot", "dataclass", "mapping", "any"), list: ("list", "any")}
    shapes = written.get(type(node.value), ("slot", "any"))
    fitting = [partial(_convert, arm) for arm in arms if _fields.shape(arm) in shapes]
    leaves = tuple(arm for arm in arms if _fields.shape(arm) == "leaf")
    if leaves and leaves != (type(None),) and not isinstance(node.value, dict | list):
        fitting.insert(0, partial(_leaf, Union[leaves]))  # noqa: UP007 - pydantic picks the member of the value's own type
    if not fitting:
        raise _error(node, path, f"must be {_describe(arms)}, got {_show(node.value)}")
    for convert in fitting[:-1]:
        with suppress(RecipeError):
            return convert(node, path)
    return fitting[-1](node, path)


def _list(annotation: Any, node: Node, path: str) -> Any:
    if not isinstance(node.value, list):
        raise _error(node, path, f"must be a list, got {_show(node.value)}", "write it as [a, b]")
    origin, args = get_origin(annotation) or annotation, get_args(annotation)
    if origin is tuple and args and args[-1] is not Ellipsis:
        if len(args) != len(node.value):
            raise _error(node, path, f"must be a list of {len(args)}, got {_show(node.value)}")
        items = zip(args, node.value)
    else:
        items = ((args[0] if args else Any, child) for child in node.value)
    values = [_convert(arm, child, _join(path, i)) for i, (arm, child) in enumerate(items)]
    return values if origin is list else tuple(values)


@cache
def _adapter(annotation: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(annotation)


def _leaf(annotation: Any, node: Node, path: str) -> Any:
    """A scalar. The plain types are told apart here, so that pydantic is imported for constraints alone (0.1 s)."""
    bare = annotation.__origin__ if get_origin(annotation) is Annotated else annotation
    arms = _fields.arms(bare)
    if all(map(_fields.basic, arms)):
        value = _exact(arms, node.value)
        if value is _MISFIT:
            what = f"must be {_describe(arms)}, got {_show(node.value)}"
            raise _error(node, path, what, _hint(arms, node.value))
        if bare is annotation:
            return value
    from pydantic import ValidationError

    try:
        return _adapter(annotation).validate_python(node.value, strict=True)
    except ValidationError as error:
        what = error.errors()[0]["msg"].replace("Input should be", "must be")
        raise _error(node, path, f"{what}, got {_show(node.value)}") from None


def _exact(arms: Sequence[Any], value: Any) -> Any:
    """`value` if it is exactly of one of these types: true is no 1 and '1' no number; a whole number fits a float."""
    for arm in arms:
        choices = get_args(arm) if get_origin(arm) is Literal else ()
        if type(value) is arm or any(value == choice and type(value) is type(choice) for choice in choices):
            return value
    if float in arms and type(value) is int:
        with suppress(OverflowError):
            return float(value)
    return _MISFIT


def _show(value: Any) -> str:
    """What was written, as the reader wrote it."""
    if isinstance(value, dict):
        return f"a mapping with {', '.join(repr(key) for key in list(value)[:5]) or 'nothing in it'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = "a huge number" if isinstance(value, int) and abs(value) >= 10**60 else repr(value)
    return text if len(text) <= 80 else f"{text[:76]}...{text[-1]}"


def _describe(arms: Iterable[Any]) -> str:
    words = []
    for arm in arms:
        bare, slot = _fields.split(arm)
        if slot:
            words.append(f"a class of {slot.package}")
        elif get_origin(bare) is Literal:
            words.append("one of " + ", ".join(repr(choice) for choice in get_args(bare)))
        else:
            shape = {"list": "a list", "mapping": "a mapping", "dataclass": "a mapping", "any": "any value"}
            words.append(shape.get(_fields.shape(bare)) or _WORDS.get(bare) or getattr(bare, "__name__", str(bare)))
    return " or ".join(dict.fromkeys(words))


def _hint(arms: list[Any], value: Any) -> str | None:
    """How to write what was probably meant."""
    if isinstance(value, str):
        choices = [c for arm in arms if get_origin(arm) is Literal for c in get_args(arm) if isinstance(c, str)]
        if close := difflib.get_close_matches(value[:200], choices, n=1, cutoff=0.5):
            return f"did you mean '{close[0]}'?"
        if (int in arms or float in arms) and isinstance(_yaml.resolve(value), int | float):
            return "write the number without quotes"
    elif isinstance(value, float) and int in arms and value.is_integer():
        return f"write {int(value)}" if abs(value) < 1e15 else None
    elif str in arms and value is not None and not isinstance(value, dict | list):
        return "put it in quotes"
    return None


# --- components -------------------------------------------------------------------------------------------------------


def _component(slot: Slot, base: Any, node: Node, path: str) -> Any:
    if isinstance(node.value, str):
        name, arguments = node.value, Node({}, node.where)
    elif isinstance(node.value, dict) and len(node.value) == 1:
        name, arguments = next(iter(node.value.items()))
    else:
        what = f"must name one class of {slot.package}, got {_show(node.value)}"
        raise _error(node, path, what, "write Name, or {Name: {argument: value}}")
    find = _own if "." in name else _exported
    return _dataclass(find(slot, base, name, arguments, path), arguments, _join(path, name))


def _exported(slot: Slot, base: Any, name: str, node: Node, path: str) -> type:
    target = _fields.export(slot, name)
    if not _fields.fits(target, base):
        fitting = _fields.components(slot, base)
        what = f"{slot.package} has no '{name[:80]}'{_suggest(name, fitting)}"
        if _fields.fits(target, Any) and base is not Any:  # a component, but of another slot
            what = f"{name} is not a {base.__name__}. Known: {', '.join(fitting) or 'none'}"
        raise _error(node, path, what, "a class of your own is a dotted name: my_code.MyClass")
    return target


def _own(slot: Slot, base: Any, name: str, node: Node, path: str) -> type:
    target = _import(name, node, path)
    if not _fields.fits(target, Any):
        raise _error(node, path, f"{name} is not a dataclass that can be made")
    if not _fields.fits(target, base):
        raise _error(
            node, path, f"{name} is not a {base.__name__}", f"derive it from {_home(slot, base)}.{base.__name__}"
        )
    return target


def _home(slot: Slot, base: type) -> str:
    return slot.package if base.__name__ in _fields.exports(slot) else base.__module__


def _import(name: str, node: Node, path: str) -> Any:
    if not _DOTTED.match(name):
        raise _error(node, path, f"'{name[:80]}' is not a dotted name", "write it as my_code.MyClass")
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # the user's own code may raise anything
        fix = "check the name; the code must be installed or on PYTHONPATH"
        raise _error(node, path, f"cannot import {name}: {type(error).__name__}: {error}", fix) from error


# --- writing ----------------------------------------------------------------------------------------------------------


def dump(obj: Any) -> str:
    """The resolved recipe (every field, defaults included) as YAML that `loads` reads back to an equal object."""
    return _yaml.emit(plain(obj))


def emit(value: Any) -> str:
    """Plain data as YAML that `read_plain` reads back to an equal value."""
    return _yaml.emit(value)


def plain(obj: Any) -> dict[str, Any]:
    """The resolved recipe as dicts, lists and scalars; `build` makes an equal object of it."""
    hints = _fields.hints(type(obj))
    return {name: plain_value(hints[name], getattr(obj, name)) for name in _fields.fields(type(obj))}


def plain_value(annotation: Any, value: Any) -> Any:
    arms = _fields.arms(annotation)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value) in [get_origin(arm) or arm for arm in arms]:
            return plain(value)
        slots = [slot for _, slot in map(_fields.split, arms) if slot]
        return {_fields.short_name(type(value), slots): plain(value)}
    if isinstance(value, list | tuple):
        args = next((get_args(_fields.split(arm)[0]) for arm in arms if _fields.shape(arm) == "list"), ())
        fixed = args and args[-1] is not Ellipsis and len(args) == len(value) > 1
        return [plain_value(args[i] if fixed else (*args, Any)[0], item) for i, item in enumerate(value)]
    if isinstance(value, dict):
        args = next((get_args(_fields.split(arm)[0]) for arm in arms if _fields.shape(arm) == "mapping"), ())
        return {str(key): plain_value((*args, Any, Any)[1], item) for key, item in value.items()}
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):  # also their subclasses, such as NumPy's float64
        if isinstance(value, kind):
            return kind(value)
    raise RecipeError(f"a recipe cannot hold {type(value).__name__}: {value!r:.80}")


def schema(cls: type) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of recipes of class `cls`, for editors: every component with all its fields."""
    from ._schema import schema as make

    return make(cls)
