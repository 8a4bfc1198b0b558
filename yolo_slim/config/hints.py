"""What a setting's annotation says of its value: is it a text, what is inside."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

UNKNOWN: Any = Any
"""The annotation of what has none: any value."""


def members(annotation: Any) -> list[Any]:
    """What an annotation allows, one by one, without the conditions that come with it."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [each for option in get_args(annotation) for each in members(option)]
    return [annotation]


def takes_text(annotation: Any) -> bool:
    """Whether one word is a text here, whatever YAML would make of it: 2024, yes, 1e5, 2021-02-30."""
    single = [each for each in members(annotation) if each is not NoneType and not _holds_others(each)]
    return bool(single) and all(map(_is_text, single))


def takes_several(annotation: Any) -> bool:
    """Whether a list or names with values may stand here."""
    return any(map(_holds_others, members(annotation)))


def as_list(annotation: Any, value: Any) -> Any:
    """One value, or several with commas between, where nothing but a list may stand: `onnx` and `onnx,openvino`."""
    options = [each for each in members(annotation) if each is not NoneType]
    if isinstance(value, bool) or not options or any(get_origin(each) is not list for each in options):
        return value
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, (int, float)) else value


def is_choice(annotation: Any, value: Any) -> bool:
    """Whether a value is one of the words that may stand here."""
    return any(get_origin(each) is Literal and value in get_args(each) for each in members(annotation))


def takes_number(annotation: Any) -> bool:
    """Whether a number may stand here, and no yes or no."""
    options = members(annotation)
    return any(each in (int, float) for each in options) and not {bool, Any} & {e for e in options if _plain(e)}


def item(annotation: Any) -> Any:
    """Of the items of a list."""
    return next((get_args(each)[0] for each in members(annotation) if get_origin(each) is list), UNKNOWN)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The class of settings that may stand here."""
    return next((e for e in members(annotation) if isinstance(e, type) and issubclass(e, BaseModel)), None)


def inside(annotation: Any, name: str) -> Any:
    """Of what stands under a name."""
    if model := model_in(annotation):
        field = model.model_fields.get(name)
        return field.annotation if field else UNKNOWN
    return next((get_args(each)[1] for each in members(annotation) if get_origin(each) is dict), UNKNOWN)


def names_single_values(annotation: Any) -> bool:
    """Whether names have one value each, and may hold dots: `prune.layers.model.2.*` is one name below layers."""
    values = [get_args(each)[1] for each in members(annotation) if get_origin(each) is dict]
    return bool(values) and not takes_several(values[0])


def _plain(option: Any) -> bool:
    return get_origin(option) is None


def _is_text(option: Any) -> bool:
    return option is str or (get_origin(option) is Literal and all(isinstance(v, str) for v in get_args(option)))


def _holds_others(option: Any) -> bool:
    return get_origin(option) in (list, dict) or (isinstance(option, type) and issubclass(option, BaseModel))
