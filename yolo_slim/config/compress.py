"""Which methods make the detector smaller, in which order."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from yolo_slim.config.base import MOST_EPOCHS, TrainSection
from yolo_slim.config.choices import COMPRESSIONS
from yolo_slim.config.training import Match
from yolo_slim.errors import shown

PRUNE = "prune"
"""The entry that stands for channel pruning, with all that belongs to it, in the list of methods."""


class Step(TrainSection):
    """A method's turn: which it is, how it is set, and how long the detector is trained after it."""

    method: str
    options: dict[str, Any] = Field({}, description="the method's own settings")
    refit: bool = Field(True, description="give each changed layer back what it gave, by least squares on images")
    match: Match | None = Field(None, description="minutes of learning from the original, without labels, before that")
    epochs: int = Field(0, ge=0, le=MOST_EPOCHS, description="of training after it, in which what it made is held")


def steps_of(entries: Any) -> list[Step]:
    """`[{low_rank: {energy: 0.97}}, prune, {weights: {pattern: "2:4", epochs: 10}}]`, entry by entry.

    Raises:
        ValueError: it is no such list.
    """
    if not isinstance(entries, list):
        raise ValueError(f"expected a list of methods, e.g. [prune, {{cluster: {{bits: 5}}}}], got {shown(entries)}")
    steps = [_as_step(each) for each in entries]
    if sum(step.method == PRUNE for step in steps) > 1:
        raise ValueError("prune is named more than once: channels are pruned in one place")
    return steps


def _checked(entries: Any) -> list[str | dict[str, Any]]:
    """The list as it is given, with names alone where nothing is set."""
    steps_of(entries)
    return [next(iter(each)) if isinstance(each, dict) and not next(iter(each.values())) else each for each in entries]


def prune_apart(values: Any) -> Any:
    """Settings in which what is said of `prune` in the list of methods stands in the `prune:` section.

    Raises:
        ValueError: it says otherwise there.
    """
    steps = values.get("compress") if isinstance(values, dict) else None
    if not isinstance(steps, list) or (place := next((i for i, s in enumerate(steps) if _is_prune(s)), None)) is None:
        return values
    said, section = steps[place][PRUNE], values.get("prune") or {}
    if not isinstance(said, dict) or not isinstance(section, dict):
        return values
    if twice := [key for key in said if key in section and section[key] != said[key]]:
        raise ValueError(f"{twice[0]} of prune is given twice, in compress and in the prune: section, and differs")
    return {**values, "compress": [*steps[:place], PRUNE, *steps[place + 1 :]], "prune": {**section, **said}}


def _is_prune(step: Any) -> bool:
    return isinstance(step, dict) and list(step) == [PRUNE] and bool(step[PRUNE])


def _as_step(entry: Any) -> Step:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ValueError(f"expected a method's name, or {{name: {{setting: value}}}}, got {shown(entry)}")
    ((name, given),) = entry.items()
    expected = [PRUNE, *COMPRESSIONS]
    if name not in expected:
        raise ValueError(f"no method {shown(name)}; expected {', '.join(expected[:-1])} or {expected[-1]}")
    if given is not None and not isinstance(given, dict):
        raise ValueError(f"{name}: expected its settings, {{setting: value}}, got {shown(given)}")
    options = dict(given or {})
    own = {key: options.pop(key) for key in ("refit", "match", "epochs", "train") if key in options}
    try:
        return Step(method=name, options=options, **own)
    except ValidationError as e:
        wrong = e.errors(include_url=False)[0]
        key = ".".join([name, *map(str, wrong["loc"])])
        raise ValueError(f"{key}: {wrong['msg'].removeprefix('Value error, ')}") from e


Steps = Annotated[list[str | dict[str, Any]], BeforeValidator(_checked)]
"""What makes the detector smaller, in order, as it is typed."""
