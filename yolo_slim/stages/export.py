"""Export the slim detector, run each file on real images, and fail if one does not agree with PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

import yolo_slim.report as report
from yolo_slim import checkpoint, deploy, record
from yolo_slim.config import Complete
from yolo_slim.console import console, quietly
from yolo_slim.data.batches import Batches
from yolo_slim.data.facts import dataset_for
from yolo_slim.devices import preset
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.door import cuts_of
from yolo_slim.measure import THREADS, accuracy
from yolo_slim.record import Record
from yolo_slim.row import Row
from yolo_slim.runs.bare import with_file
from yolo_slim.runs.rows import split_of
from yolo_slim.runs.stage import lineage, run_stage, slim_weights
from yolo_slim.scratch import Scratch
from yolo_slim.stages.entry import looks_at
from yolo_slim.stages.export_words import complaints, say_file

FOUND = "export.json"
"""What every file has come to, whether that was enough or not."""


class File(NamedTuple):
    """What was written."""

    format: str
    precision: str
    path: Path
    nms: bool  # it holds non-maximum suppression

    @property
    def name(self) -> str:
        return self.format if self.precision == "fp32" else f"{self.format}_{self.precision}"


@looks_at
def export(config: Complete) -> Record:
    """runs/<name>/export/: slim.onnx and whatever else `export.formats` and `export.int8` ask for."""
    start = slim_weights(config, with_file(config, lineage(config)))
    if start is None:
        raise SlimError(
            f"nothing slim to export in {config.folder}: run `yolo-slim prune` or `yolo-slim finetune` first, or give "
            "a slim checkpoint, model=slim.pt. What is not slim is written as it is by `yolo-slim convert`"
        )
    if not config.data:
        raise SlimError("exported files are compared with PyTorch on real images: give data=path/to/data.yaml")
    if not config.export.formats + config.export.int8:
        raise SlimError("expected something under export.formats or export.int8, e.g. export.formats=[onnx]")
    if lacking := missing(config):
        raise SlimError(f"export needs {', '.join(lacking)}: {how(config)}")
    settings = {**config.export.model_dump(), "imgsz": _imgsz(config), "split": split_of(config)}

    def work(folder: Path) -> tuple:
        files, rows = exported(config, start, folder)
        wrong = [line for row in rows for line in complaints(row)]
        table = folder / FOUND  # the report tells of a stage that fails as well
        record.write_json(table, {"weights": record.sha256(start), "files": rows, "wrong": wrong})
        if wrong:
            end = "the files are kept for inspection, the stage is not done"
            raise SlimError("\n".join([f"{folder}: beyond what was allowed", *(f"  {line}" for line in wrong), end]))
        return {**{file.name: file.path for file in files}, "json": table}, {"files": rows}, {}

    return run_stage(config, "export", settings, [start], work)


def exported(config: Complete, weights: Path, folder: Path) -> tuple[list[File], list[dict[str, Any]]]:
    """All that the `export:` section asks for, written to a folder and compared with PyTorch: a row a file."""
    detector = checkpoint.load(weights)
    dataset_for(detector, config.dataset, str(weights))
    _check_side(config, detector)
    card = _card(weights, detector)
    files = [*_floats(config, weights, card, folder), *_quantised(config, weights, card, detector, folder)]
    return files, _judged(config, weights, detector, files)


def missing(config: Complete) -> list[str]:
    """The packages that this export needs and that are not installed."""
    return list(dict.fromkeys([*deploy.missing(config.export.formats), *deploy.missing_int8(config.export.int8)]))


def how(config: Complete) -> str:
    """Where they come from."""
    wanted = [*config.export.formats, *config.export.int8]
    return deploy.how_to_install(name for name in wanted if deploy.missing([name]) or deploy.missing_int8([name]))


def check_export(config: Complete) -> None:
    """What is wrong with `export.int8_float` and `export.imgsz` shows before hours of training.

    Raises:
        SlimError: a pattern that no convolution goes by, or a side that the detector's strides do not divide.
    """
    if missing(config) or not config.export.formats + config.export.int8:
        return
    detector = checkpoint.load(config.model, config.weights)
    _check_side(config, detector)
    if config.export.int8:
        deploy.float_layers(detector, config.export.int8_float)


def _check_side(config: Complete, detector: Detector) -> None:
    side, stride = _imgsz(config), int(detector.stride.max())
    if side % stride:
        raise SlimError(
            f"expected images whose side is a multiple of {stride}, the detector's largest stride, got {side}: "
            f"give export.imgsz={-(-side // stride) * stride}"
        )


def _imgsz(config: Complete) -> int:
    return config.export.imgsz or config.imgsz


def _card(weights: Path, detector: Detector) -> dict[str, Any]:
    """What every file carries: the checkpoint's own card, which checkpoint that is, and the channels it kept."""
    begun = checkpoint.card(weights) or {"steps": [], "versions": record.versions()}
    return {**begun, "weights": {"file": weights.name, "sha256": record.sha256(weights)}, "plan": cuts_of(detector)}


def _written(config: Complete, weights: Path, card: dict[str, Any], folder: Path, format: str) -> Path:
    """The detector in a format; arguments that the format does not take are left out, and said."""
    asked = {"opset": config.export.opset, "simplify": config.export.simplify, "data": config.data}
    # Ultralytics takes nms=False for a wish of its own: the head of newer detectors that needs none.
    asked |= {name: True for name in ("dynamic", "nms") if getattr(config.export, name)}
    arguments = {name: value for name, value in asked.items() if name in deploy.taken(format)}
    if ignored := {"dynamic", "nms"} & (asked.keys() - arguments.keys()):
        console.print(f"{format}: takes no {' or '.join(sorted(ignored))}, left out")
    if config.export.chip and "name" in deploy.taken(format):
        arguments["name"] = config.export.chip
    if format == "rknn":
        arguments["quantize"] = 8 if _precision(config, format) == "int8" else 16
    if format == "engine":
        arguments["device"] = config.device.split(",")[0]
    with quietly():
        target = folder / f"slim{deploy.suffix(format)}"
        return deploy.export_file(weights, target, _imgsz(config), format, card=card, **arguments)


def _floats(config: Complete, weights: Path, card: dict[str, Any], folder: Path) -> Iterator[File]:
    for format in config.export.formats:
        nms = config.export.nms and "nms" in deploy.taken(format)
        precision = _precision(config, format) if format in deploy.ROUNDED else "fp32"
        yield File(format, precision, _written(config, weights, card, folder, format), nms)


def _precision(config: Complete, format: str) -> str:
    """Of a chip's file: as `prune.device` has it, where the run is for that chip."""
    of = preset(config.prune.device) if config.prune.device else None
    return of.precision if of and of.device.format == format else "int8"


def _quantised(
    config: Complete, weights: Path, card: dict[str, Any], detector: Detector, folder: Path
) -> Iterator[File]:
    """From files in float that are written for it alone."""
    chosen = config.export
    if not chosen.int8:
        return
    floats = deploy.float_layers(detector, chosen.int8_float)
    batches = Batches(config.dataset, _imgsz(config), chosen.calib_images, seed=config.seed, batch=1)
    images = [batch.numpy() for batch in batches]
    for format in chosen.int8:
        target = folder / f"slim_int8{deploy.suffix(format)}"
        with Scratch(folder) as place:
            source = _written(config, weights, card, Path(place), format)
            yield File(format, "int8", deploy.quantize(format, source, target, images, floats), chosen.nms)


def _judged(config: Complete, weights: Path, detector: Detector, files: list[File]) -> list[dict[str, Any]]:
    """A row a file: what it differs by from PyTorch, in numbers and in mAP."""
    split = split_of(config)
    batches = list(Batches(config.dataset, _imgsz(config), config.export.images, split=split, batch=1))
    worth = partial(accuracy, data=config.dataset, imgsz=_imgsz(config), split=split)
    pytorch = {nms: worth(deploy.with_nms(detector) if nms else detector) for nms in {file.nms for file in files}}
    if not all(of["labels"] for of in pytorch.values()):
        console.print(f"export: {report.not_measured({'split': split})}; files are held against PyTorch by raw outputs")
    rows = []
    for file in files:
        row = {**_row(config, file), "images": len(batches), "not_run": deploy.elsewhere(file.format)}
        if row["not_run"]:
            say_file(row)
            rows.append(row)
            continue
        try:
            run = deploy.opened(file.path, row["runtime"], THREADS)
            row |= _compared(worth(deploy.Exported(run, detector)), pytorch[file.nms], row)
            if file.precision == "fp32" and not file.nms:
                row["difference"] = deploy.difference(detector, run, batches)
                row["also"], row["not_in"] = _elsewhere(file, detector, batches)
        except Exception as e:  # each runtime has errors of its own; what others make of theirs is wanted all the same
            row["error"] = f"{type(e).__name__}: {e}"
        say_file(row)
        rows.append(row)
    return rows


def _compared(worth: Row, pytorch: Row, row: dict[str, Any]) -> dict[str, Any]:
    """A file's accuracy, how far it is from PyTorch's and how sure that is; nothing but its counts without labels."""
    found: dict[str, Any] = {
        k: v for k, v in worth.items() if k not in ("images", "per_class", "replicates", "replicates_at_25")
    }
    found["map50_95_images"] = worth["images"]
    if worth["map50_95"] is None:
        return found
    low, high = report.difference(worth, pytorch) or (None, None)
    names: tuple[Row, Row] = {**pytorch, "stage": "PyTorch"}, {**worth, "stage": row["file"]}
    bound = row["map50_95_tolerance"]
    return {
        **found,
        "map50_95_difference": worth["map50_95"] - pytorch["map50_95"],
        "map50_95_difference_low": low,
        "map50_95_difference_high": high,
        "map50_95_undecided": any(report.undecided(worth, pytorch, side) for side in (-bound, bound)[: _sides(row)]),
        "moved": report.moved(*names, "keep more layers in float (export.int8_float), or calibrate on more images"),
    }


def _sides(row: dict[str, Any]) -> int:
    """What is rounded may gain; what is exact may not."""
    return 2 if row["precision"] == "fp32" else 1


def _row(config: Complete, file: File) -> dict[str, Any]:
    """What is known of a file before it is run, in the order of the record."""
    exact = file.precision == "fp32"
    return {
        "format": file.format,
        "precision": file.precision,
        "file": file.path.name,
        "file_mb": deploy.file_mb(file.path),
        "difference": None,
        "tolerance": config.export.tolerance,
        "map50": None,
        "map50_95": None,
        "map50_95_difference": None,
        "map50_95_tolerance": config.export.map_tolerance if exact else config.export.int8_tolerance,
        "images": 0,
        "runtime": deploy.runtime_of(file.format),
        "also": {},
        "not_in": {},
        "error": None,
    }


def _elsewhere(file: File, detector: Detector, batches: list[Tensor]) -> tuple[dict[str, float | None], dict[str, str]]:
    """The same comparison in the other runtimes that read this format; and of those that cannot run it, why."""
    found: dict[str, float | None] = {}
    failed: dict[str, str] = {}
    for name in (n for n, runtime in deploy.RUNTIMES.items() if runtime.format == file.format):
        if name == deploy.runtime_of(file.format):
            continue
        try:
            found[name] = deploy.difference(detector, deploy.opened(file.path, name, THREADS), batches)
        except Exception as e:  # it reads, but cannot run it: each has errors of its own
            failed[name] = f"{type(e).__name__}: {e}"
            console.print(f"{file.path.name}: not in {name}: {failed[name]}", markup=False)
    return found, failed
