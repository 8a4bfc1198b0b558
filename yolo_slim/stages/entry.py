"""How a command enters its run: with all that it needs, alone in there, and never in another experiment's folder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from yolo_slim import record
from yolo_slim.config import Complete, Config
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.runs import identity, locks
from yolo_slim.runs.bare import run_of
from yolo_slim.runs.given import complete
from yolo_slim.runs.log import logged
from yolo_slim.scratch import temporary

Done = TypeVar("Done")


def begins(stage: Callable[[Complete], Done]) -> Callable[[Config], Done]:
    """A stage that reads the model, and may be the first of a run."""
    return _entering(stage, begins=True)


def continues(stage: Callable[[Complete], Done]) -> Callable[[Config], Done]:
    """A stage that goes by what the run holds already."""
    return _entering(stage, begins=False)


def looks_at(stage: Callable[[Complete], Done]) -> Callable[[Config], Done]:
    """As `continues`; or of a slim checkpoint that no run has made, in a run of its own."""
    return _entering(stage, begins=False, bare=True)


def _entering(stage: Callable[[Complete], Done], *, begins: bool, bare: bool = False) -> Callable[[Config], Done]:
    @functools.wraps(stage)
    def entered(asked: Config) -> Done:
        config = complete(run_of(asked) if bare else asked)
        with alone(config) as first:
            if first:
                _check_own(config, begins=begins)
            return stage(config)

    entered.in_run = True  # type: ignore[attr-defined]  # what --dry-run can look into
    return entered


@contextmanager
def alone(config: Config) -> Iterator[bool]:
    """Hold the run folder; yields whether this process did not do so before.

    Raises:
        SlimError: another process does.
    """
    record.code()  # of the sources as they are now, however long it takes and whatever is done to them
    folder, made = config.folder, not Path(config.runs).exists()
    try:
        with locks.held(folder) as first:
            if not first:
                yield False
                return
            with temporary(), logged(folder):
                locks.tidy(folder)
                try:
                    yield True
                finally:
                    locks.clear(folder)
    finally:
        if made and Path(config.runs).is_dir() and not any(Path(config.runs).iterdir()):
            Path(config.runs).rmdir()


def _check_own(config: Complete, *, begins: bool) -> None:
    """Nothing, if the run is of this experiment, or of none yet; with `overwrite`, what is there is put away first.

    Raises:
        SlimError: it is of another one.
    """
    folder, now = config.folder, identity.identity_of(config)
    then = identity.read(folder)
    if then is None or not (found := identity.differences(then, now, begins=begins)):
        return
    if config.overwrite and begins:
        identity.set_aside(folder)
        console.print(f"{folder} was of another experiment ({'; '.join(found)}): it is replaced", markup=False)
        return
    name = identity.free_name(Path(config.runs), config.name)
    ways = [
        f"give this one a name of its own, e.g. name={name}",
        "leave out model, data and imgsz, and the run's are taken",
        *(["overwrite=true, which deletes what the other has come to"] if begins else []),
    ]
    raise SlimError(
        f"{folder} is a run of another experiment, and nothing in it is touched: {'; '.join(found)}. "
        f"Either {', or '.join(ways)}"
    )
