"""Whether a training that was begun can be gone on with: its files are whole, and of this training and no other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ultralytics.cfg import get_cfg
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_slim import checkpoint
from yolo_slim.errors import SlimError
from yolo_slim.training.finite import unsound

STARTED = "started.json"
"""In the run folder: all that decides what the training comes to; written last of what is there before it begins."""
MARK = "training"
"""The entry of last.pt and best.pt that says which training they are of: the sha256 of its `STARTED`."""


class StartAfresh(SlimError):
    """Why a training cannot be gone on with; without a word where none was begun."""


def mark_of(run: Path) -> str | None:
    """What a training's checkpoints bear as their `MARK`; None: nobody has said what it is."""
    file = run / STARTED
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def epochs_done(run: Path, asked: dict[str, Any]) -> int:
    """How many epochs of a training are whole; its results.csv is brought back to them.

    Args:
        run: where it was begun, if it was.
        asked: all that decides what the training comes to, as JSON gives it back.

    Raises:
        StartAfresh: none was begun, another was, or what it has left is not whole.
    """
    if not run.exists():
        raise StartAfresh
    try:
        begun = json.loads((run / STARTED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise StartAfresh(f"{run} does not say what it was begun with ({STARTED} is missing or damaged)") from e
    if begun != asked:
        raise StartAfresh(f"{run} was begun with other settings, inputs, arguments or code")
    last, best = (run / "weights" / name for name in ("last.pt", "best.pt"))
    if not last.exists():
        raise StartAfresh(f"no epoch was finished in {run}")
    ckpt = whole(last, mark_of(run))
    whole(best, mark_of(run))
    _check_resumable(ckpt, last)
    _rewrite_results(run / "results.csv", ckpt.get("train_results"))
    return ckpt["epoch"] + 1


def whole(file: Path, mark: str | None) -> dict[str, Any]:
    """A checkpoint that this training has written.

    Args:
        file: it.
        mark: what it bears as its `MARK`.

    Raises:
        StartAfresh: it is damaged, of another training, or holds what is no number.
    """
    try:
        ckpt = checkpoint.read(file)
        checkpoint.detector_of(ckpt, file)
    except SlimError as e:
        raise StartAfresh(str(e)) from e
    except Exception as e:  # content of whatever kind
        raise StartAfresh(f"{file} is damaged ({type(e).__name__}: {e})") from e
    if ckpt.get(MARK) != mark:
        raise StartAfresh(f"{file} is of another training")
    if where := unsound(ckpt):
        raise StartAfresh(f"{file} holds values that are no numbers ({where})")
    return ckpt


def _check_resumable(ckpt: dict[str, Any], file: Path) -> None:
    """Nothing, where the entries are there that a resume reads before anything else does."""
    epoch, live = ckpt.get("epoch"), ckpt.get("live")
    if type(epoch) is not int or epoch < 0 or not isinstance(live, dict) or not ckpt.get("optimizer"):
        raise StartAfresh(f"{file} does not hold the state of a training")
    try:
        get_cfg({**DEFAULT_CFG_DICT, **ckpt["train_args"]})
    except Exception as e:  # Ultralytics', of many kinds
        raise StartAfresh(f"{file} was written with arguments that Ultralytics does not take: {e}") from e


def _rewrite_results(file: Path, results: Any) -> None:
    """results.csv as it was when last.pt was written: a kill may have left half a row, or one of an epoch to come."""
    try:
        rows = list(zip(*results.values(), strict=True))
        lines = [",".join(results), *(",".join(f"{value:.6g}" for value in row) for row in rows)]
    except (AttributeError, TypeError, ValueError):  # it was damaged already when last.pt was written
        rows = []
    if not rows:
        file.unlink(missing_ok=True)
        return
    part = file.with_name(f".{file.name}.part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(file)
