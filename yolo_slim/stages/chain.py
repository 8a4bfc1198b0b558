"""The list of methods, read: what comes before channel pruning, what behind it, and whether each is set soundly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from yolo_slim.compress import METHODS, Method
from yolo_slim.config import Complete, Step
from yolo_slim.config.compress import PRUNE, steps_of
from yolo_slim.errors import SlimError, plain, shown


@dataclass(frozen=True)
class Turn:
    """A method's turn in the list."""

    number: int  # from 1 on
    step: Step
    method: Method

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number}_{self.step.method}"

    @property
    def gradual(self) -> bool:
        """Whether training brings about what it does, little by little."""
        return self.method.gradual

    @property
    def said(self) -> dict[str, Any]:
        """What decides it, as settings of a stage."""
        return {"method": self.step.method, **self.step.model_dump(exclude={"method"}, exclude_defaults=True)}


@dataclass(frozen=True)
class Chain:
    """The methods in order."""

    before: tuple[Turn, ...]
    prunes: bool
    behind: tuple[Turn, ...]


def whole_stage(config: Complete) -> str:
    """The stage whose weights channels are pruned from: what methods before `prune` have made, else the original."""
    return "reshaped" if chain_of(config).before else "original"


def chain_of(config: Complete) -> Chain:
    """The list of methods; without `prune` in it, all of them come behind.

    Raises:
        SlimError: a method is set wrongly, or comes where it cannot.
    """
    steps = steps_of(config.compress)
    place = next((i for i, step in enumerate(steps) if step.method == PRUNE), None)
    turns = {i: _turn(i + 1, step) for i, step in enumerate(steps) if i != place}
    _check_order(steps, turns)
    cut = -1 if place is None else place
    before, behind = (tuple(t for i, t in turns.items() if (i < cut) is early) for early in (True, False))
    return Chain(before, place is not None, behind)


def _turn(number: int, step: Step) -> Turn:
    method = METHODS.get(step.method)
    if method is None:
        raise SlimError(f"compress: no method {step.method}; expected one of {', '.join(METHODS)}")
    known = [field.name for field in fields(cast(Any, method))]
    if unknown := [key for key in step.options if key not in known]:
        near = get_close_matches(unknown[0][:100], known, n=1, cutoff=0.5)
        raise SlimError(
            f"compress, entry {number}: {step.method}.{plain(unknown[0])}: unknown setting"
            + (f"; did you mean {near[0]}?" if near else "")
            + f" {step.method} has {', '.join(known)}, and refit, match, epochs and train"
        )
    try:
        turn = Turn(number, step, TypeAdapter(method).validate_python(step.options, strict=False))
    except ValidationError as e:
        wrong = "; ".join(_explained(step.method, error) for error in e.errors(include_url=False))
        raise SlimError(f"compress, entry {number}: {wrong}") from e
    if turn.gradual and not step.epochs:
        raise SlimError(
            f"compress, entry {number}: {step.method} so set works in training, little by little, and there is none: "
            f"give it epochs, e.g. {{{step.method}: {{epochs: 10}}}}"
        )
    if turn.gradual and step.match:
        raise SlimError(
            f"compress, entry {number}: {step.method} so set has done nothing before its epochs, where match comes. "
            "Leave match out"
        )
    return turn


def _explained(method: str, error: Any) -> str:
    key = ".".join([method, *map(str, error["loc"])])
    got = "" if error["type"] == "value_error" else f", got {shown(error['input'])}"
    return f"{key}: {error['msg'].removeprefix('Value error, ')}{got}"


def _check_order(steps: Sequence[Step], turns: dict[int, Turn]) -> None:
    """What changes numbers alone is undone by what makes other layers of them."""
    numbers = next((i for i, turn in turns.items() if not turn.method.changes_layers), len(steps))
    late = next((s.method for i, s in enumerate(steps) if i > numbers and _reshapes(turns.get(i))), None)
    if late:
        first = steps[numbers].method
        raise SlimError(
            f"compress: {late} comes behind {first}, and would undo it: first what makes other layers (prune, low_rank "
            f"and the like), then what changes their numbers (weights, cluster and the like). Put {late} before {first}"
        )


def _reshapes(turn: Turn | None) -> bool:
    return turn is None or turn.method.changes_layers  # None: channel pruning
