"""What the annotations of recipe classes say: fields, union members, shapes, slots and the components that fit them."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_LISTS = (list, tuple, Sequence)
_MAPPINGS = (dict, Mapping)
_SCALARS = (int, float, str, bool, type(None))


@dataclass(frozen=True)
class Slot:
    """Marks a field that holds a component: a dataclass exported by `package`, or one given by a dotted name.

    In ``Annotated[Base, Slot(package)]`` a `Base` other than Any restricts the slot to its subclasses.
    """

    package: str


@cache
def fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields a recipe may give, by name."""
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@cache
def hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def split(annotation: Any) -> tuple[Any, Slot | None]:
    """The bare annotation and its slot, if it is one."""
    if get_origin(annotation) is not Annotated:
        return annotation, None
    slots = [extra for extra in annotation.__metadata__ if isinstance(extra, Slot)]
    return annotation.__origin__, slots[0] if slots else None


def arms(annotation: Any) -> list[Any]:
    """The members of a union; else the annotation alone."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for arm in get_args(annotation) for inner in arms(arm)]
    return [annotation]


def shape(annotation: Any) -> str:
    """How a value of it is written: ``slot``, ``any``, ``dataclass``, ``list``, ``mapping`` or ``leaf``."""
    bare, slot = split(annotation)
    if slot:
        return "slot"
    if bare is Any:
        return "any"
    origin = get_origin(bare) or bare
    if dataclasses.is_dataclass(origin):
        return "dataclass"
    return "list" if origin in _LISTS else "mapping" if origin in _MAPPINGS else "leaf"


def basic(annotation: Any) -> bool:
    return annotation in _SCALARS or get_origin(annotation) is Literal


def writable(annotation: Any, within: frozenset[type] = frozenset()) -> bool:
    """Whether a recipe can give such a value: not, for example, an array or an open file."""
    members = arms(annotation)
    if len(members) > 1:
        return all(writable(member, within) for member in members)
    bare, _ = split(annotation)
    kind = shape(annotation)
    if kind == "dataclass":
        inside = within | {bare}
        return bare in within or all(writable(hints(bare)[name], inside) for name in fields(bare))
    if kind in ("list", "mapping"):
        return all(writable(arg, within) for arg in get_args(bare) if arg is not Ellipsis)
    return kind != "leaf" or all(map(basic, arms(bare)))


def fits(target: Any, base: Any) -> bool:
    """Whether `target` is a component: a dataclass that can be made, of the slot's base where it names one."""
    made = inspect.isclass(target) and dataclasses.is_dataclass(target) and not inspect.isabstract(target)
    return made and (base is Any or issubclass(target, base))


def exports(slot: Slot) -> Sequence[str]:
    return import_module(slot.package).__all__


def export(slot: Slot, name: str) -> Any:
    """What the slot's package exports under `name`; None when nothing. Imports no more than that name needs."""
    return getattr(import_module(slot.package), name) if name in exports(slot) else None


def components(slot: Slot, base: Any) -> dict[str, type]:
    """Every component the slot takes. Lazy exports are imported: for error messages and the schema only."""
    found: dict[str, type] = {}
    for name in exports(slot):
        with suppress(ImportError):  # an export that needs an extra
            target = export(slot, name)
            if fits(target, base) and writable(target):
                found[name] = target
    return found


def short_name(cls: type, slots: Iterable[Slot]) -> str:
    """How a recipe names `cls`: by its own name where a slot's package exports it, else dotted."""
    exported = any(export(slot, cls.__name__) is cls for slot in slots)
    return cls.__name__ if exported else f"{cls.__module__}.{cls.__qualname__}"
