"""Modules as they come out of a pickle: whatever `nn.Module` takes for granted, looked at."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from yolo_slim.errors import SlimError
from yolo_slim.formats.plain import check_plain

DEEPEST = 16
MOST = 50_000
"""Modules, each counted as often as it is met."""

HOOKS = (
    *("_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks"),
    *("_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
TABLES = {"_parameters": nn.Parameter, "_buffers": torch.Tensor, "_modules": nn.Module}
"""Where `nn.Module` keeps what it is made of."""
OWN = frozenset({*HOOKS, *TABLES, "training", "_non_persistent_buffers_set", "_is_full_backward_hook"})
FORGOTTEN = frozenset({"criterion", "args"})
"""Of the detector itself: set anew once it is loaded."""


def check_modules(detector: nn.Module) -> None:
    """Refuse modules without their parts, in a circle, with hooks, or with values that hide their methods.

    Raises:
        SlimError: the module's dotted name, and what is wrong with it.
    """
    known: set[int] = set()
    for met, (name, module) in enumerate(_all(detector, "", ())):
        if met > MOST:
            raise SlimError(f"has more than {MOST:,} modules: no detector does")
        if id(module) not in known:
            known.add(id(module))
            _check(name, module, FORGOTTEN if module is detector else frozenset())


def _all(module: nn.Module, name: str, above: tuple[int, ...]) -> Iterator[tuple[str, nn.Module]]:
    if id(module) in above or len(above) > DEEPEST:
        raise SlimError(f"holds modules in modules without end at {called(name)}: no detector does")
    yield name, module
    for key, inner in _table(module, name, "_modules").items():
        if inner is not None:
            yield from _all(inner, f"{name}.{key}".lstrip("."), (*above, id(module)))


def called(name: str) -> str:
    """The name of a module, for a message."""
    return name or "the detector"


def _table(module: nn.Module, name: str, which: str) -> dict[str, Any]:
    found = vars(module).get(which)
    if not isinstance(found, dict):
        raise SlimError(f"is no whole detector: {called(name)} ({type(module).__name__}) lacks its {which}")
    for key, value in found.items():
        if type(key) is not str or not key or "." in key:
            raise SlimError(f"is no whole detector: {called(name)} has a part named {key!r}")
        if value is not None and not isinstance(value, TABLES[which]):
            raise SlimError(
                f"is no whole detector: {name}.{key} is a {type(value).__name__}, expected a {TABLES[which].__name__}"
            )
    return found


def _check(name: str, module: nn.Module, forgotten: frozenset[str]) -> None:
    tables = [_table(module, name, which) for which in TABLES]
    state = vars(module)
    if type(state.get("training")) is not bool or type(state.get("_non_persistent_buffers_set")) is not set:
        raise SlimError(f"is no whole detector: {called(name)} lacks what every module has")
    if hook := next((hook for hook in HOOKS if state.get(hook)), None):
        raise SlimError(f"has hooks at {called(name)} ({hook}), which run with the detector: no checkpoint has any")
    state.update((hook, OrderedDict()) for hook in HOOKS if hook in state)  # empty, and of the type that torch wants
    hidden = _methods(type(module)) & {*state}  # type: ignore[arg-type]
    if hidden or state.get("_compiled_call_impl") is not None:
        what = next(iter(sorted(hidden)), "__call__")
        raise SlimError(f"hides the method {what} of {called(name)} ({type(module).__name__}): no checkpoint does")
    names = [*(key for table in tables for key in table), *state]
    if len({*names}) < len(names):
        twice = next(key for key in names if names.count(key) > 1)
        raise SlimError(f"has two parts named {twice} in {called(name)}: only one can be meant")
    for key, value in state.items():
        if key not in OWN and key not in forgotten:
            check_plain(value, f"{name}.{key}".lstrip("."))


@cache
def _methods(kind: type[nn.Module]) -> frozenset[str]:
    """What of a class an instance's own value would hide; not its properties, which come first."""
    own = {name: inspect.getattr_static(kind, name) for name in dir(kind)}
    return frozenset(name for name, value in own.items() if callable(value) or _bound(value)) - {"default_act", "type"}


def _bound(value: object) -> bool:
    return isinstance(value, (staticmethod, classmethod))
