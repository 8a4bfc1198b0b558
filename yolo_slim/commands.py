"""Stages as functions: the settings that a stage reads as keyword arguments, what it did as its record.

Names, types and defaults are those of the settings (tests/test_commands.py holds them to that). A section within a
section is given as a dict, and what is left out of it is at its default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from yolo_slim.config import Config, check, section
from yolo_slim.given import chosen_of
from yolo_slim.record import Record
from yolo_slim.stages import STAGES

Path = str | os.PathLike[str]


def finetune(
    model: Path | None = None,
    *,
    data: Path | None = None,
    name: str | None = None,
    folder: Path = "runs",
    imgsz: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    trackers: Sequence[Literal["tensorboard", "mlflow", "wandb"]] = (),
    recover: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    epochs: int = 30,
    distill: Mapping[str, Any] | Literal["auto"] | None = "auto",
) -> Record:
    """Train the slim detector of a run, which stays slim: runs/<name>/finetuned/slim.pt, `record.metrics` with its mAP.

    Args:
        model: what is slim: a checkpoint that no run has made, or the model of a run (default: what the run holds).
        data: an Ultralytics data-set YAML (default: the run's).
        name: of the run (default: slim, or for a file of no run its own).
        folder: where runs are: the setting `runs`.
        imgsz: image side in pixels (default: the run's, else what the checkpoint was trained at).
        device: cpu, 0, 0,1, mps.
        seed: of the training.
        trackers: who is told how it goes, named after run and stage; in files of this machine.
        recover: the `recover:` section, where the detector was recovered by matching first.
        train: any Ultralytics train argument, e.g. {batch: 16, lr0: 0.01}.
        epochs: epochs of fine-tuning.
        distill: what to learn from a teacher; auto: the maps of the original, where the cut has lost enough; null: from
            labels alone.

    Raises:
        SlimError: nothing is pruned yet in the run, settings or the data set are wrong, or the training breaks down.
    """
    return _done("finetune", locals())


def sweep(
    model: Path | None = None,
    *,
    data: Path | None = None,
    name: str | None = None,
    folder: Path = "runs",
    imgsz: int | None = None,
    device: str = "cpu",
    weights: Path | None = None,
    overwrite: bool = False,
    prune: Mapping[str, Any] | None = None,
    latency: Mapping[str, Any] | None = None,
    report: Mapping[str, Any] | None = None,
    criteria: Sequence[str] = ("obs", "l1", "random"),
    flops: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4),
    recovery: Sequence[Literal["none", "absorb", "recalibrate", "reconstruct"]] = ("reconstruct",),
    drop: float = 0.02,
    workers: int = 2,
    executor: Literal["processes", "ray"] = "processes",
    ray_address: str | None = None,
) -> Record:
    """Cuts without training, criterion x target x recovery, each measured on val: which target to ask for.

    `record.metrics` holds a row a point (`rows`) and the recommended one (`recommended`).

    Args:
        model: what is slim: a checkpoint that no run has made, or the model of a run (default: what the run holds).
        data: an Ultralytics data-set YAML (default: the run's).
        name: of the run (default: slim, or for a file of no run its own).
        folder: where runs are: the setting `runs`.
        imgsz: image side in pixels (default: the run's, else what the checkpoint was trained at).
        device: cpu, 0, 0,1, mps.
        weights: of a Darknet cfg, where they do not lie beside it.
        overwrite: replace a run of this name that is of another model, data set or imgsz.
        prune: the `prune:` section of every point, but for criterion, target and recovery.
        latency: the `latency:` section.
        report: the `report:` section: timed images of each point.
        criteria: criteria to compare, module:function of your own among them; random is the control.
        flops: targets: shares of the FLOPs to keep.
        recovery: what is done after each cut: none, absorb, recalibrate, reconstruct.
        drop: mAP50-95 that may be lost, for the recommended target.
        workers: points made at a time, sharing the cores.
        executor: processes of this machine, or tasks on Ray (pip install yolo-slim[ray]).
        ray_address: a running Ray cluster, e.g. 10.0.0.1:6379 (default: $RAY_ADDRESS, else one on this machine).

    Raises:
        SlimError: settings or the data set are wrong, no image of val has a label, or no point can be made.
    """
    return _done("sweep", locals())


def export(
    model: Path | None = None,
    *,
    data: Path | None = None,
    name: str | None = None,
    folder: Path = "runs",
    device: str = "cpu",
    formats: Sequence[str] = ("onnx",),
    int8: Sequence[str] = (),
    int8_float: Sequence[str] = ("head",),
    calib_images: int = 256,
    imgsz: int | None = None,
    dynamic: bool = False,
    chip: str | None = None,
    opset: int | None = None,
    simplify: bool = True,
    nms: bool = False,
    images: int = 8,
    tolerance: float = 0.001,
    map_tolerance: float = 0.001,
    int8_tolerance: float = 0.015,
) -> Record:
    """Write files for devices and hold each against PyTorch on real images: `record.metrics['files']`, a row a file.

    Args:
        model: what is slim: a checkpoint that no run has made, or the model of a run (default: what the run holds).
        data: an Ultralytics data-set YAML (default: the run's).
        name: of the run (default: slim, or for a file of no run its own).
        folder: where runs are: the setting `runs`.
        device: cpu, 0, 0,1, mps.
        formats: files to write: onnx, openvino, torchscript, ncnn, or another of Ultralytics' exporter.
        int8: files to write in INT8: onnx (QDQ, by onnxruntime), openvino (by NNCF).
        int8_float: what INT8 files keep in float: head (its last convolutions, the decode), module-name patterns.
        calib_images: training images that INT8 scales are measured on.
        imgsz: image side in pixels (default: imgsz).
        dynamic: any batch and image size, where the format can.
        chip: of rknn (rk3588), qnn (75), hailo (hailo8l): what exactly the file is for (default: Ultralytics').
        opset: of ONNX (default: the newest that Ultralytics trusts).
        simplify: simplify ONNX graphs.
        nms: build non-maximum suppression in, where the format can.
        images: real images to compare raw outputs on.
        tolerance: largest difference to PyTorch, relative, before the stage fails.
        map_tolerance: likewise for mAP50-95; 0.001: 0.1 points.
        int8_tolerance: mAP50-95 that an INT8 file may lose; 0.015: 1.5 points.

    Raises:
        SlimError: nothing slim is there, a package is missing, there is no data set, or a file does not agree.
    """
    return _done("export", locals())


def bench(
    model: Path | None = None,
    *,
    name: str | None = None,
    folder: Path = "runs",
    imgsz: int | None = None,
    device: str = "cpu",
    runtimes: Sequence[str] | None = None,
    threads: int | None = None,
    batches: Sequence[int] = (1,),
    runs: int = 50,
) -> Record:
    """Time the original and the slim detector in turn, in every runtime here: milliseconds in `record.metrics['rows']`.

    Args:
        model: what is slim: a checkpoint that no run has made, or the model of a run (default: what the run holds).
        name: of the run (default: slim, or for a file of no run its own).
        folder: where runs are: the setting `runs`.
        imgsz: image side in pixels (default: the run's, else what the checkpoint was trained at).
        device: cpu, 0, 0,1, mps.
        runtimes: of torch, onnxruntime, openvino, torchscript, ncnn, opencv; null: all that are installed.
        threads: of each runtime; null: as many as the machine has cores.
        batches: images at a time.
        runs: timed runs of each, in turn.

    Raises:
        SlimError: nothing slim is there, or a runtime that was asked for cannot run it.
    """
    return _done("bench", locals())


def report(
    model: Path | None = None,
    *,
    data: Path | None = None,
    name: str | None = None,
    folder: Path = "runs",
    imgsz: int | None = None,
    device: str = "cpu",
    split: Literal["auto", "val", "test"] = "auto",
    latency_runs: int = 50,
) -> Record:
    """Measure every stage of a run alike, and write report.html, report.md and report.json: rows in `record.metrics`.

    Args:
        model: what is slim: a checkpoint that no run has made, or the model of a run (default: what the run holds).
        data: an Ultralytics data-set YAML (default: the run's).
        name: of the run (default: slim, or for a file of no run its own).
        folder: where runs are: the setting `runs`.
        imgsz: image side in pixels (default: the run's, else what the checkpoint was trained at).
        device: cpu, 0, 0,1, mps.
        split: auto: test where it has labels, else val.
        latency_runs: timed images per detector, all detectors in turn.

    Raises:
        SlimError: there is no run, or the data set cannot be read.
    """
    return _done("report", locals())


def _done(stage: str, given: Mapping[str, Any]) -> Record:
    """A stage, done with the arguments of its function."""
    own = section([stage])
    assert own is not None, f"{stage} has a section of its name"
    beside = {{"folder": "runs"}.get(name, name): v for name, v in given.items() if name not in own.model_fields}
    values = {**chosen_of(Config, beside), stage: chosen_of(own, given)}
    return STAGES[stage].function(check(values, f"yolo_slim.{stage}()"))
