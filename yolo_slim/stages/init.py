"""Init: a configuration for a detector and a data set, with everything there is to set and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolo_slim import record
from yolo_slim.config import Complete
from yolo_slim.config.commented import commented, has_lines
from yolo_slim.console import console
from yolo_slim.data.batches import Batches
from yolo_slim.data.facts import dataset_for, dataset_info
from yolo_slim.errors import SlimError, plain, why
from yolo_slim.formats.detector import Detector
from yolo_slim.heads import classes_of
from yolo_slim.measure import cost
from yolo_slim.stages.auto import trained
from yolo_slim.stages.begun import begun, is_yaml
from yolo_slim.stages.landing_time import landing_time, training_images

FLOPS = 0.5
"""Share of the FLOPs to keep, where nothing else is asked for."""


def init(config: Complete) -> Path:
    """The configuration, as the file `init.to`.

    Raises:
        SlimError: the model or the data set cannot be read, or they do not go together; or the file is there.
    """
    target = Path(config.init.to or f"{config.name}.yaml")
    if target.suffix not in (".yaml", ".yml"):
        raise SlimError(f"init.to={plain(target)}: expected a name that ends in .yaml")
    if target.exists() and not config.overwrite:
        raise SlimError(f"{plain(target)} is there: give another name, init.to=..., or overwrite=true")
    detector = begun(config)
    said, notes = [_detector(config, detector)], {}
    if config.data:
        if not is_yaml(config.model):
            dataset_for(detector, config.data, config.model)
        said.append(_data(config))
        landing = landing_time(trained(config, mode="targeted"))
        if landing:
            notes["sparse_train.epochs"] = f"of these images a landing needs {landing.epochs} at least"
    text = commented(_chosen(config), _head(target, said, config), notes)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(target, text)
    except OSError as e:
        raise SlimError(f"cannot write {plain(target)}: {why(e, target)}") from e
    for line in said:
        console.print(line, markup=False)
    console.print(f"[bold green]init[/]: {target}; next: yolo-slim run {target} --dry-run")
    return target


def _chosen(config: Complete) -> dict[str, Any]:
    """What is set in the file: what was given, and what had to be found out."""
    given = config.model_dump(exclude={"init", "overwrite"}, exclude_defaults=True)
    found = {**given, "name": config.name, "model": config.model, "imgsz": config.imgsz, "device": config.device}
    flat = dict(_flat(found))
    if not {"prune.ratio", "prune.target", "prune.layers"} & flat.keys():
        flat["prune.target"] = {"flops": FLOPS}
    return flat


def _flat(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Dotted key -> value, of every setting that stands in a line of its own."""
    for name, value in values.items():
        here = (*path, name)
        if isinstance(value, dict) and has_lines(here):
            yield from _flat(value, here)
        else:
            yield ".".join(here), value


def _head(target: Path, said: list[str], config: Complete) -> list[str]:
    return [
        "Settings of yolo-slim, written by yolo-slim init.",
        *said,
        "",
        f"yolo-slim run {target} --dry-run     what would be done, and about how long it takes",
        *([f"yolo-slim sweep {target}             which target to ask for, without training"] if config.data else []),
        f"yolo-slim run {target}               everything, to {config.folder}",
        "",
        "A line such as #epochs: 30 is a default: take the mark away and change it. Words after the file win over it:",
        f"yolo-slim run {target} prune.target.flops=0.7",
    ]


def _detector(config: Complete, detector: Detector) -> str:
    if is_yaml(config.model):
        return f"{config.model}: untrained; it is trained first (original.epochs)"
    spent = cost(detector, config.imgsz)
    return (
        f"{config.model}: {classes_of(detector)} classes, {spent.params / 1e6:.3f} M parameters, "
        f"{spent.flops / 1e9:.3f} GFLOPs at {config.imgsz} px"
    )


def _data(config: Complete) -> str:
    info, counted = dataset_info(config.dataset), []
    for split in ("val", "test"):
        if info.get(split):
            counted.append(f"{len(Batches(config.dataset, config.imgsz, 0, split=split).dataset)} in {split}")
    return f"{config.data}: {training_images(config.dataset, 1.0)} images to train on, {', '.join(counted)}"
