"""Model cards that no export of this package carries, in checkpoints and in exported files."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import torch

from fuzzing import exports
from fuzzing.case import Case
from fuzzing.checkpoints import WAYS, odd, shown
from fuzzing.pickles import CORPUS

PLACES: list[tuple] = [
    (), ("source",), ("source", "file"), ("source", "sha256"), ("steps",), ("steps", 0), ("steps", 0, "stage"),
    ("steps", 0, "params"), ("steps", 0, "flops"), ("steps", 0, "map50_95"), ("steps", 0, "split"), ("versions",),
    ("steps", 0, "settings"), ("steps", 0, "settings", "criterion"), ("versions", "torch"), ("weights",), ("plan",),
    ("weights", "file"), ("plan", 0), ("extra",), ("steps", 0, "settings", "layers"), ("steps", 0, "extra"),
]  # fmt: skip


def card() -> dict[str, Any]:
    """A real one."""
    return torch.load(CORPUS / "slim-twice.pt", weights_only=False)["yolo_slim"]


def broken(rng: random.Random) -> tuple[Any, str]:
    """A card with one to three wrong places, and what they are."""
    made: Any = copy.deepcopy(card())
    made |= {"weights": {"file": "slim.pt", "sha256": "0" * 64}, "plan": [{"model.0.conv": [0, 1]}]}
    told = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        path, value = rng.choice(PLACES), odd(rng)
        made, done = put(made, path, value, rng.random() < 0.15)
        told.append(f"{path}: {'gone' if done else shown(value)}")
    return made, ", ".join(told)


def put(tree: Any, path: tuple, value: Any, gone: bool) -> tuple[Any, bool]:
    """The tree with another value at a place, or none there; as it was where there is no such place."""
    if not path:
        return value, False
    place = tree
    try:
        for key in path[:-1]:
            place = place[key] if isinstance(place, (dict, list)) else {}
        if gone:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    except (KeyError, IndexError, TypeError):
        gone = False
    return tree, gone


def plain(value: Any, depth: int = 0) -> Any:
    """As JSON has it, as far as it goes."""
    if depth > 100:
        return None
    if isinstance(value, dict):
        return {str(k): plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(v, depth + 1) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(type(value))


def case(rng: random.Random, work: Path) -> Case:
    """In a checkpoint, or as a text in an exported file."""
    made, told = broken(rng)
    if rng.random() < 0.5:
        ckpt = torch.load(CORPUS / "slim-once.pt", weights_only=False)
        ckpt["yolo_slim"] = made
        try:
            torch.save(ckpt, work / "x.pt")
        except Exception as e:
            return Case(["load", "missing.pt"], f"{told}: not written, {type(e).__name__}")
        return Case(list(rng.choice(WAYS)), f"checkpoint, {told}")
    try:
        text = json.dumps(plain(made))
    except (ValueError, RecursionError):
        text = rng.choice(["{", "[" * 10**5, "9" * 5000, '{"steps": ' * 5000, "NaN", '"\\ud800"', "nul"])
    name = rng.choice(list(exports.WRITERS))
    file = exports.WRITERS[name](work, {"yolo_slim": text, "description": "x"})
    return Case(["inspect", file], f"{name}, {told}")


def benign(rng: random.Random, work: Path) -> Case:
    """A real card."""
    name = rng.choice(list(exports.WRITERS))
    file = exports.WRITERS[name](work, {"yolo_slim": json.dumps(card()), "stride": 32})
    return Case(["inspect", file], f"{name} with a card", benign=True)
