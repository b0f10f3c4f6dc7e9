"""The JSON Schema of recipes: what an editor needs to complete, describe and check a recipe while it is written."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Annotated, Any, Literal, get_args, get_origin

from . import _fields, recipe
from ._fields import Slot

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_OWN_CLASS = r"^[^\W\d]\w*(\.[^\W\d]\w*)+$"
_LEAVES: dict[Any, dict[str, Any]] = {
    # editors read YAML 1.2, in which 400_000 is text; a recipe takes it as a number
    int: {"type": ["integer", "string"], "pattern": r"^[-+]?[1-9](_?[0-9])*$"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}


def schema(cls: type) -> dict[str, Any]:
    """The schema of a recipe class; every class it can reach stands once in ``$defs``."""
    definitions: dict[str, Any] = {}
    root = _dataclass(cls, definitions)
    return {"$schema": _DRAFT, "title": cls.__name__, **root, "$defs": dict(sorted(definitions.items()))}


def _dataclass(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name not in definitions:
        definitions[name] = body = {}  # before its fields: a class may contain itself
        summary, texts = _documentation(cls)
        hints, fields = _fields.hints(cls), _fields.fields(cls)
        body.update({"type": "object", "description": summary} if summary else {"type": "object"})
        body["properties"] = {
            key: _value(hints[key], definitions)
            | ({"description": texts[key]} if key in texts else {})
            | _default(field, hints[key])
            for key, field in fields.items()
        }
        body["required"] = [key for key, field in fields.items() if _fields.required(field)]
        body["additionalProperties"] = False
    return {"$ref": f"#/$defs/{name}"}


def _default(field: dataclasses.Field[Any], annotation: Any) -> dict[str, Any]:
    if _fields.required(field):
        return {}
    made = field.default_factory is not dataclasses.MISSING
    default = field.default_factory() if made else field.default  # pyright: ignore[reportCallIssue]
    return {"default": recipe.plain_value(annotation, default)}


def _value(annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    arms = _fields.arms(annotation)
    if len(arms) > 1:
        return {"anyOf": [_value(arm, definitions) for arm in arms]}
    bare, slot = _fields.split(annotation)
    shape, args = _fields.shape(annotation), get_args(bare)
    if slot:
        return _slot(slot, bare, definitions)
    if shape == "any":
        return {}
    if shape == "dataclass":
        return _dataclass(get_origin(bare) or bare, definitions)
    if shape == "mapping":
        return {"type": "object", "additionalProperties": _value((*args, Any, Any)[1], definitions)}
    if shape == "list":
        if get_origin(bare) is tuple and args[-1] is not Ellipsis:
            items = [_value(arg, definitions) for arg in args]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        return {"type": "array", "items": _value((*args, Any)[0], definitions)}
    if get_origin(bare) is Literal:
        return {"enum": list(args)}
    if bare in _LEAVES and get_origin(annotation) is not Annotated:
        return dict(_LEAVES[bare])
    from pydantic import TypeAdapter

    return TypeAdapter(annotation).json_schema()


def _slot(slot: Slot, base: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """``Name`` where nothing is required of it, or ``{Name: {arguments}}``; or the same with a dotted name."""
    name = slot.package if base is Any else f"{slot.package}:{base.__qualname__}"
    if name not in definitions:
        definitions[name] = body = {}
        found = _fields.components(slot, base)
        bare = [key for key, cls in found.items() if not any(map(_fields.required, _fields.fields(cls).values()))]
        arguments = {key: _dataclass(cls, definitions) for key, cls in found.items()}
        named = {
            "type": "object",
            "properties": {
                key: {"anyOf": [value, {"type": "null"}]} if key in bare else value for key, value in arguments.items()
            },
            "patternProperties": {_OWN_CLASS: {"type": ["object", "null"]}},
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }
        body["anyOf"] = [named, {"enum": bare}, {"type": "string", "pattern": _OWN_CLASS}]
    return {"$ref": f"#/$defs/{name}"}


def _documentation(cls: type) -> tuple[str, dict[str, str]]:
    """The first paragraph of a docstring, and the text of each entry of its ``Args:`` section."""
    text = inspect.cleandoc(vars(cls).get("__doc__") or "")
    if text.startswith(f"{cls.__name__}("):  # what dataclass writes where there is none
        return "", {}
    summary, _, rest = text.partition("\n\n")
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", f"{summary}\n\n{rest}", re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): ((?:.*(?:\n {5,}.*)*))", section.group(1) if section else "", re.MULTILINE)
    return " ".join(summary.split()), {name: " ".join(body.split()) for name, body in entries}
