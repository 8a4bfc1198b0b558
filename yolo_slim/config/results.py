"""Settings of what is measured, compared, reported and exported."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from yolo_slim.config.arguments import check_formats
from yolo_slim.config.base import MOST_IMAGES, MOST_RUNS, MOST_THREADS, WIDEST, Section, Share
from yolo_slim.config.choices import QUANTIZERS, RUNTIMES, TIMED_BY_LAYER, one_of
from yolo_slim.config.pruning import RECOVERIES


class Latency(Section):
    """What a latency target is measured with: once for a detector, then kept under <runs>/latency."""

    runtime: Annotated[str, AfterValidator(one_of(TIMED_BY_LAYER, "torch"))] = Field(
        "onnxruntime",
        description="what the slim detector will run in: openvino or onnxruntime, on the CPU; torch, on `device`",
    )
    threads: int | None = Field(
        None, ge=1, le=MOST_THREADS, description="of the runtime; null: as many as the machine has cores"
    )
    samples: int = Field(16, ge=8, le=1_000, description="detectors of random widths that layers are measured in")
    runs: int = Field(20, ge=3, le=MOST_RUNS, description="timed images in each, those of the original in between")


class Bench(Section):
    """The original and the slim detector side by side in the runtimes of this machine; null: not in `run`."""

    runtimes: list[Annotated[str, AfterValidator(one_of(RUNTIMES, "torch"))]] | None = Field(
        None, description=f"of torch, {', '.join(RUNTIMES)}; null: all that are installed"
    )
    threads: int | None = Field(
        None, ge=1, le=MOST_THREADS, description="of each runtime; null: as many as the machine has cores"
    )
    batches: list[Annotated[int, Field(ge=1, le=4_096)]] = Field([1], min_length=1, description="images at a time")
    runs: int = Field(50, ge=3, le=MOST_RUNS, description="timed runs of each, in turn")


class Report(Section):
    """How every row is measured: one evaluator, one setting."""

    split: Literal["auto", "val", "test"] = Field("auto", description="auto: test where it has labels, else val")
    latency_runs: int = Field(
        50, ge=1, le=MOST_RUNS, description="timed images per detector, all in turn, if nothing was benched"
    )


class Sweep(Section):
    """A grid of cuts without training, each measured on the val split, to choose from (never on test)."""

    criteria: list[str] = Field(
        ["obs", "l1", "random"],
        min_length=1,
        description="criteria to compare, module:function of your own among them; random is the control",
    )
    flops: list[Share] = Field(
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], min_length=1, description="targets: shares of the FLOPs to keep"
    )
    recovery: list[Literal[tuple(RECOVERIES)]] = Field(  # type: ignore[valid-type]
        ["reconstruct"], min_length=1, description=f"what is done after each cut: {', '.join(RECOVERIES)}"
    )
    drop: float = Field(0.02, ge=0, lt=1, description="mAP50-95 that may be lost, for the recommended target")
    workers: int = Field(2, ge=1, le=MOST_THREADS, description="points made at a time, sharing the cores")
    executor: Literal["processes", "ray"] = Field(
        "processes", description="processes of this machine, or tasks on Ray (pip install yolo-slim[ray])"
    )
    ray_address: str | None = Field(
        None, description="a running Ray cluster, e.g. 10.0.0.1:6379 (default: $RAY_ADDRESS, else one on this machine)"
    )


class Convert(Section):
    """One detector as another kind of file, without loss."""

    to: str | None = Field(
        None,
        description="the file to write: a checkpoint .pt, the .cfg of a Darknet detector, .onnx, .torchscript, or a "
        "folder ..._openvino_model, ..._ncnn_model",
    )
    unrolled: bool = Field(
        False,
        description="of a YOLOv5 checkpoint: blocks become plain layers that its YAML describes, with which that "
        "repository's own train.py goes on, slim as it is",
    )


class Pack(Section):
    """A checkpoint as one small file, without loss, and what each way to store it would take."""

    to: str | None = Field(None, description="the file to write, .yslim (default: beside the model, called as it is)")
    compare: bool = Field(
        True, description="say what xz, and zstd where zstandard is installed, make of the same file: takes seconds"
    )


class Unpack(Section):
    """The checkpoint in a packed file, as it was, byte for byte."""

    to: str | None = Field(
        None,
        description="the file to write, .pt, in place of what is there (default: beside the packed one, where no other "
        "file has that name)",
    )


class Init(Section):
    """A configuration to begin with, for a model and a data set."""

    to: str | None = Field(None, description="the file to write, .yaml (default: <name>.yaml in this folder)")


class Export(Section):
    """The files for devices, and the proof that each agrees."""

    formats: list[str] = Field(
        ["onnx"],
        description="files to write: onnx, openvino, torchscript, ncnn, litert, coreml, qnn, rknn, or another of "
        "Ultralytics' exporter",
    )
    int8: list[Annotated[str, AfterValidator(one_of(QUANTIZERS))]] = Field(
        [], description="files to write in INT8: onnx (QDQ, by onnxruntime), openvino (by NNCF)"
    )
    int8_float: list[str] = Field(
        ["head"],
        description="what INT8 files keep in float: head (its last convolutions, the decode), module-name patterns",
    )
    calib_images: int = Field(256, ge=1, le=MOST_IMAGES, description="training images that INT8 scales are measured on")
    imgsz: int | None = Field(
        None, ge=32, le=WIDEST, multiple_of=32, description="image side in pixels (default: imgsz)"
    )
    dynamic: bool = Field(False, description="any batch and image size, where the format can")
    chip: str | None = Field(
        None,
        max_length=64,
        description="of rknn (rk3588), qnn (75), hailo (hailo8l): what exactly the file is for (default: Ultralytics')",
    )
    opset: int | None = Field(None, ge=7, le=99, description="of ONNX (default: the newest that Ultralytics trusts)")
    simplify: bool = Field(True, description="simplify ONNX graphs")
    nms: bool = Field(False, description="build non-maximum suppression in, where the format can")
    images: int = Field(8, ge=1, le=MOST_IMAGES, description="real images to compare raw outputs on")
    tolerance: float = Field(
        1e-3, gt=0, le=1e6, description="largest difference to PyTorch, relative, before the stage fails"
    )
    map_tolerance: float = Field(0.001, ge=0, le=1, description="likewise for mAP50-95; 0.001: 0.1 points")
    int8_tolerance: float = Field(
        0.015, ge=0, le=1, description="mAP50-95 that an INT8 file may lose; 0.015: 1.5 points"
    )

    @field_validator("formats")
    @classmethod
    def _known_to_ultralytics(cls, formats: list[str]) -> list[str]:
        if set(formats) - {"onnx", "openvino", "torchscript", "ncnn"}:
            check_formats(formats)
        return list(dict.fromkeys(formats))

    @field_validator("int8")
    @classmethod
    def _once(cls, formats: list[str]) -> list[str]:
        return list(dict.fromkeys(formats))
