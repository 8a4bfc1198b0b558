"""Which experiment a run folder belongs to: run.json, written when its first stage begins.

A detector, a data set and an image side make an experiment. Everything else may change from stage to stage: then the
stage is done again. These three may not: what was made for others would be mixed with what is made now.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from yolo_slim import record
from yolo_slim.config import Complete
from yolo_slim.runs import LOG, STAGES, WEIGHTS

FILE = "run.json"

FORMAT = 1
"""Of that file."""

ASIDE = ".replaced"
"""Where the stages of another experiment wait until the one that replaces it has begun."""


@dataclass(frozen=True)
class Identity:
    """What a run is of. Paths as they were typed; sums are the files' sha256, None where there was no such file."""

    model: str
    model_sum: str | None
    data: str | None
    data_sum: str | None
    imgsz: int
    weights: str | None = None
    """Of a model that does not say where they lie. They tell no experiments apart: stages notice when they change."""


def identity_of(config: Complete) -> Identity:
    """What a complete configuration asks for."""
    model = str(config.model)
    return Identity(model, sum_of(model), config.data, sum_of_data(config.data), config.imgsz, config.weights)


def sum_of(file: str | None) -> str | None:
    """The sha256 of a file that may not be there."""
    try:
        return record.sha256(Path(file)) if file and Path(file).is_file() else None
    except (OSError, ValueError):
        return None


def sum_of_data(data: str | None) -> str | None:
    """The sha256 of what describes a data set: a file, or the YAML files in a folder."""
    if not data or not Path(data).is_dir():
        return sum_of(data)
    files = sorted(p for p in Path(data).glob("*.y*ml") if p.is_file())
    return sha256("".join(f"{p.name} {sum_of(str(p))}\n" for p in files).encode()).hexdigest() if files else None


def read(folder: Path) -> Identity | None:
    """What this run is of: as run.json says or, where that is damaged, the record of a stage; None: nothing begun."""
    stages = (record.stated(folder / stage) for stage in WEIGHTS)
    said = (_parsed(content) for content in (record.read_json(folder / FILE), *(s.run for s in stages if s)))
    return next((identity for identity in said if identity), None)


def _parsed(content: Any) -> Identity | None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    said: list[Any] = [content.get(field.name) for field in fields(Identity)]
    found = Identity(*said)
    sides = isinstance(found.imgsz, int) and not isinstance(found.imgsz, bool) and 0 < found.imgsz < 1 << 31
    rest = (found.model_sum, found.data, found.data_sum, found.weights)
    sound = sides and isinstance(found.model, str) and all(isinstance(each, (str, type(None))) for each in rest)
    return found if sound else None


def written(identity: Identity) -> dict[str, Any]:
    """As run.json and the records hold it."""
    said = asdict(identity)
    if identity.weights is None:
        del said["weights"]
    return {"format": FORMAT, **said}


def same_model(then: Identity, now: Identity, *, begins: bool = True) -> bool:
    """Whether both name one detector: by content, and a YAML by its name as well, which says how wide it is.

    Args:
        then: of the run.
        now: what is asked for.
        begins: what is asked for reads the detector; else the same path is enough, whatever lies there by now.
    """
    if now.model == then.model and (not begins or now.model_sum is None):  # no file: that is told where it is read
        return True
    alike = Path(now.model).name == Path(then.model).name if _is_yaml(now.model) or _is_yaml(then.model) else True
    if now.model_sum is None and then.model_sum is None:
        return _is_yaml(now.model) and alike
    return alike and now.model_sum == then.model_sum


def _is_yaml(model: str) -> bool:
    return model.endswith((".yaml", ".yml"))


def differences(then: Identity, now: Identity, *, begins: bool) -> list[str]:
    """What of a run is not what is asked for now; a data set may still be added to a run that had none."""
    found = []
    if not same_model(then, now, begins=begins):
        found.append(f"model was {_told(then.model, then.model_sum)} and is {_told(now.model, now.model_sum)}")
    same_data = now.data_sum == then.data_sum if now.data_sum or then.data_sum else now.data == then.data
    if then.data is not None and not same_data:
        found.append(f"data was {_told(then.data, then.data_sum)} and is {_told(now.data, now.data_sum)}")
    if now.imgsz != then.imgsz:
        found.append(f"imgsz was {then.imgsz} and is {now.imgsz}")
    return found


def _told(path: str | None, total: str | None) -> str:
    if path is None:
        return "none"
    return f"{path} ({f'sha256 {total[:8]}' if total else 'no file there'})"


def begin(folder: Path, identity: Identity) -> dict[str, Any]:
    """Say in the folder what the run is of, before anything of it is written; what it replaces is deleted then.

    Returns:
        what a record is to hold of it.
    """
    if before := read(folder):
        moved = identity.model_sum is not None and identity.model_sum == before.model_sum
        kept = replace(before, model=identity.model if moved else before.model, weights=identity.weights)
        identity = kept if before.data is not None else replace(kept, data=identity.data, data_sum=identity.data_sum)
    content = written(identity)
    if record.read_json(folder / FILE) != content:
        record.write_json(folder / FILE, content)
    shutil.rmtree(folder / ASIDE, ignore_errors=True)
    return content


def set_aside(folder: Path) -> None:
    """Put away what another experiment has written here, to be deleted when something new begins, or put back."""
    (folder / ASIDE).mkdir()
    for name in (FILE, LOG, *STAGES):  # run.json first: without it, what was put away is to be put back
        if (folder / name).is_dir() or (name in (FILE, LOG) and (folder / name).exists()):
            (folder / name).rename(folder / ASIDE / name)


def put_back(folder: Path) -> None:
    """Undo `set_aside`, unless something new has begun: then delete what was put away."""
    if not (folder / ASIDE).is_dir():
        return
    if not (folder / FILE).exists():
        for name in (*STAGES, LOG, FILE):
            if (folder / ASIDE / name).exists():
                shutil.rmtree(folder / name, ignore_errors=True)  # empty: nothing had begun
                (folder / ASIDE / name).rename(folder / name)
    shutil.rmtree(folder / ASIDE, ignore_errors=True)


def free_name(runs: Path, name: str) -> str:
    """A name for a run that there is not yet: this one, or it with -2, -3, ..."""
    tried = (name if i == 1 else f"{name}-{i}" for i in range(1, 10_000))
    return next(name for name in tried if not (runs / name).exists())
