"""One experiment: every section a stage reads, with its default, its bounds and its meaning."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator

from yolo_slim.config.base import WIDEST, Section
from yolo_slim.config.compress import Steps, prune_apart
from yolo_slim.config.pruning import Prune
from yolo_slim.config.results import Bench, Convert, Export, Init, Latency, Pack, Report, Sweep, Unpack
from yolo_slim.config.training import Finetune, Original, Recover, SparseTrain, check_lesson
from yolo_slim.config.values import LARGEST

LONGEST_RUN = 128
"""Bytes of a run's name: longer ones leave no room for what is made of them."""

RESERVED = {
    *("latency", "mlruns", "con", "prn", "aux", "nul"),
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)),
}
"""Names that are no run's: <runs>/latency keeps what layers take, <runs>/mlruns what MLflow is told; the others are
devices of Windows."""


class Config(Section):
    """One experiment: runs/<name>/..."""

    name: str = Field("slim", pattern=r"^[\w-][\w.-]*$", description="results go to <runs>/<name>/")
    model: str | None = Field(
        None,
        description="what to slim: a .pt of Ultralytics or yolov5, a Darknet .cfg with its .weights beside it, or a "
        "model .yaml for an untrained one (null: the run's; a new run needs one)",
    )
    weights: str | None = Field(None, description="of a Darknet .cfg, where they do not lie beside it")
    data: str | None = Field(
        None, description="an Ultralytics data-set YAML (null: the run's; prune alone works without)"
    )
    images: str | None = Field(
        None,
        description="a folder of pictures without labels: recover.match learns from them as well; without data, the "
        "cut goes by them alone",
    )
    imgsz: int | None = Field(
        None,
        ge=32,
        le=WIDEST,
        multiple_of=32,
        description="image side in pixels, for training and for every measurement (null: the run's, else what the "
        "checkpoint was trained at, else 640)",
    )
    device: Annotated[str, BeforeValidator(str)] = Field(
        "cpu", pattern=r"^(cpu|mps|(cuda:)?\d+(,\d+)*)$", description="cpu, 0, 0,1, mps"
    )
    runs: str = Field("runs", description="folder for results")
    overwrite: bool = Field(
        False,
        description="delete what a run of this name holds of another model, data set or imgsz, instead of refusing",
    )
    seed: int = Field(0, ge=0, le=LARGEST, description="of every training")
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        [],
        description="who is told how trainings go, named after run and stage: tensorboard, mlflow, wandb; in files of "
        "this machine, unless MLFLOW_TRACKING_URI or WANDB_MODE say otherwise (pip install yolo-slim[trackers])",
    )
    original: Original = Original()
    sparse_train: SparseTrain = SparseTrain()
    prune: Prune = Prune()
    recover: Recover = Recover()
    finetune: Finetune = Finetune()
    compress: Steps = Field(
        ["prune"],
        validate_default=True,
        description="what makes the detector smaller, in this order: prune (channels, with all that belongs to it), "
        "and methods with their settings, e.g. [{low_rank: {energy: 0.97}}, prune, {weights: {pattern: '2:4'}}]",
    )
    latency: Latency = Latency()
    bench: Bench | None = Bench()
    report: Report = Report()
    sweep: Sweep = Sweep()
    export: Export = Export()
    convert: Convert = Convert()
    pack: Pack = Pack()
    unpack: Unpack = Unpack()
    init: Init = Init()

    @model_validator(mode="before")
    @classmethod
    def _prune_apart(cls, values: Any) -> Any:
        return prune_apart(values)

    @field_validator("trackers")
    @classmethod
    def _are_installed(cls, trackers: list[str]) -> list[str]:
        if lacking := [name for name in trackers if importlib.util.find_spec(name) is None]:
            raise ValueError(f"{', '.join(lacking)}: not installed: pip install yolo-slim[trackers]")
        return list(dict.fromkeys(trackers))

    @field_validator("name")
    @classmethod
    def _can_be_a_folder(cls, name: str) -> str:
        if len(name.encode()) > LONGEST_RUN:
            raise ValueError(f"expected {LONGEST_RUN} bytes at most, got {len(name.encode())}")
        if name.endswith(".") or name.partition(".")[0].lower() in RESERVED:
            raise ValueError(f"{name} cannot be a folder of results: it means something else")
        return name

    @model_validator(mode="after")
    def _rounds_are_taught_too(self) -> Config:
        tuned = self.prune.iterations
        if tuned.rounds > 1 and (lesson := self.finetune.lesson):
            check_lesson(lesson, tuned.epochs, f"prune.iterations.epochs={tuned.epochs}")
        return self

    @model_validator(mode="after")
    def _a_batch_for_every_gpu(self) -> Config:
        gpus = len(self.device.split(","))
        for stage in ("original", "sparse_train", "finetune") if gpus > 1 else ():
            batch = getattr(self, stage).train.get("batch", 16)
            if batch < gpus or batch % gpus:
                raise ValueError(
                    f"{stage}.train.batch={batch}: expected a multiple of the {gpus} GPUs of device={self.device}"
                )
        return self

    @property
    def folder(self) -> Path:
        """Where this experiment's results are."""
        return Path(self.runs) / self.name

    @property
    def timing(self) -> dict[str, Any]:
        """The settings that decide what a latency target is measured with; none where there is no such target."""
        target = self.prune.target
        return {"latency": self.latency.model_dump()} if target and target.timed else {}

    @property
    def dataset(self) -> str:
        """`data`, for what is not begun without it."""
        assert self.data is not None
        return self.data


class Complete(Config):
    """A configuration that leaves nothing open but the data set, without which a cut is still one.

    `runs/given.py` makes it; what takes one never asks what is meant by null.
    """

    model: str
    imgsz: int

    @classmethod
    def of(cls, config: Config, **known: Any) -> Complete:
        """With the settings that a configuration has, but for those that are `known` by now."""
        return cls(**{**{name: getattr(config, name) for name in Config.model_fields}, **known})


def section(path: list[str]) -> type[BaseModel] | None:
    """The class of settings at a dotted place: [] is Config, ["prune", "target"] is Target."""
    model: type[BaseModel] = Config
    for step in path:
        field = model.model_fields.get(step)
        options = [field.annotation, *get_args(field.annotation)] if field else []
        inner = next((t for t in options if isinstance(t, type) and issubclass(t, BaseModel)), None)
        if inner is None:
            return None
        model = inner
    return model
