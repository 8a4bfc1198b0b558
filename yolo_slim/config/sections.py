"""What may be set: a section a stage, each setting with its default, its bounds and its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from yolo_slim.config.arguments import check_formats, check_train_arguments
from yolo_slim.config.hints import model_in
from yolo_slim.config.values import LARGEST, check_value
from yolo_slim.errors import shown

MOST_EPOCHS, MOST_STEPS, MOST_IMAGES, MOST_RUNS, MOST_THREADS = 100_000, 10_000_000, 10_000_000, 100_000, 1_024
WIDEST = 16_384
"""Bounds of what can be meant: of epochs, images, timed runs, threads or processes, and of a side in pixels."""

Share = Annotated[float, Field(gt=0, lt=1)]

RECOVERIES: dict[str, dict[str, Any]] = {
    "none": {"reconstruct": "none", "absorb": "none", "recalibrate": 0},
    "absorb": {"reconstruct": "none", "absorb": "measured", "recalibrate": 0},
    "recalibrate": {"reconstruct": "none", "absorb": "measured"},
    "reconstruct": {"reconstruct": "lstsq", "recalibrate": 0},
}
"""What a sweep calls a recovery: settings of the `prune:` section that it puts over the user's own."""


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _sound(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name].annotation
        if model_in(annotation) is None:  # a section looks at its own
            check_value(value, annotation)
        return value


class TrainSection(Section):
    """What the training stages share."""

    train: dict[str, Any] = Field({}, description="any Ultralytics train argument, e.g. {batch: 16, lr0: 0.01}")

    @field_validator("train")
    @classmethod
    def _known_to_ultralytics(cls, train: dict[str, Any]) -> dict[str, Any]:
        if train:
            check_train_arguments(train)
        return train


class Original(TrainSection):
    """Used when `model` is a YAML: the untrained detector is trained first, by plain Ultralytics."""

    epochs: int = Field(100, ge=1, le=MOST_EPOCHS, description="epochs to train an untrained model for")


class SparseTrain(TrainSection):
    """Training that makes channels go, or show that they may."""

    epochs: int = Field(
        30, ge=0, le=MOST_EPOCHS, description="epochs of it; 0: no sparse training, `run` goes on to prune"
    )
    mode: Literal["targeted", "uniform", "soft", "polarization"] = Field(
        "targeted",
        description="targeted: fade the channels that the prune: section removes to zero; uniform: pull on all scales; "
        "soft: zero their filters again and again (SFP: prune.criterion=l2 prune.scope=layer prune.ratio=0.3); "
        "polarization: part the scales in two",
    )
    strength: float = Field(
        0.3,
        ge=0,
        le=1_000,
        description="uniform, polarization: travel, how far a scale moves towards zero in all if nothing holds it "
        "(1.0: from 1 to 0)",
    )
    penalty: Literal["group_lasso", "l1"] = Field(
        "group_lasso", description="group_lasso: the layers tied by a shortcut go together; l1: each scale alone"
    )
    update: Literal["proximal", "subgradient"] = Field(
        "proximal",
        description="proximal: shrink after each step, any optimizer; subgradient: the paper's form, SGD only",
    )
    landing: float = Field(0.5, gt=0, le=1, description="targeted: share of the training after which they are zero")
    min_steps: int = Field(
        120,
        ge=0,
        le=MOST_STEPS,
        description="targeted: optimizer steps that a landing must have, before training begins; a short one keeps mAP "
        "and takes the confidence; 0: any number will do",
    )
    rechoose: int = Field(
        0, ge=0, le=MOST_EPOCHS, description="targeted: epochs between choosing anew who goes next; 0: never"
    )
    every: int = Field(1, ge=1, le=MOST_EPOCHS, description="soft: epochs between two zeroings")
    polarization_t: float = Field(1.2, ge=0, le=2, description="polarization: t; a share of 1/2 - t/4 is let stay")
    weights: Literal["live", "average"] = Field(
        "live", description="what goes to the pruner: the weights themselves or the moving average of them"
    )

    @model_validator(mode="after")
    def _fits_the_mode(self) -> SparseTrain:
        if self.mode != "uniform" and self.update == "subgradient":
            raise ValueError(f"update=subgradient is a form of mode=uniform: mode={self.mode} has none")
        if self.train.get("time"):
            raise ValueError("train.time ends a training by the clock, but what goes when is set by its epochs")
        if self.mode == "soft" and self.weights == "average":
            raise ValueError("mode=soft zeroes filters of the live weights: weights=average would not see it")
        return self


class Target(Section):
    """A budget, as the share of the original that may stay."""

    flops: Share | None = Field(None, description="share of the FLOPs to keep")
    params: Share | None = Field(None, description="share of the parameters to keep")
    size_mb: float | None = Field(None, gt=0, le=1e6, description="megabytes (1e6 bytes) that the checkpoint may have")
    latency: Share | None = Field(None, description="share of the measured time of an image to keep (see `latency:`)")
    latency_ms: float | None = Field(
        None, gt=0, le=1e6, description="milliseconds an image may take, nothing else running"
    )

    @property
    def timed(self) -> bool:
        """Whether the time that layers take must be known."""
        return self.latency is not None or self.latency_ms is not None


class Sensitivity(Section):
    """A scan: how much worse the detector gets when one group alone loses channels."""

    ratios: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        min_length=1,
        description="shares of each group's channels that are silenced in turn, the lowest scores first",
    )
    metric: Literal["loss", "map50_95"] = Field(
        "loss", description="loss: on some images of the val split; map50_95: on all of it, slower"
    )
    images: int = Field(
        256, ge=1, le=MOST_IMAGES, description="val images that the loss is measured on (map50_95: on all there are)"
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="instead of a ratio or a target: every group loses what makes the detector no worse than this",
    )

    @field_validator("ratios")
    @classmethod
    def _rising(cls, ratios: list[float]) -> list[float]:
        if not any(ratios):
            raise ValueError("expected a ratio above 0: at 0 nothing is silenced")
        return sorted(set(ratios))


class Iterations(Section):
    """Cutting in rounds, each but the last fine-tuned before the next; every share refers to the uncut detector."""

    rounds: int = Field(
        1, ge=1, le=100, description="cuts; between them the detector is fine-tuned as under `finetune:`"
    )
    schedule: Literal["exponential", "linear", "cubic"] = Field(
        "exponential",
        description="exponential: the same share of what is left each round; linear: as much; cubic: most of it early",
    )
    epochs: int = Field(5, ge=1, le=MOST_EPOCHS, description="epochs of fine-tuning after each round but the last")
    stop_if_map_drop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="stop when a fine-tuned round is more than this mAP50-95 (val) below the original; 0.02: 2 points",
    )


class Depth(Section):
    """Residual branches that go whole."""

    blocks: Annotated[int, Field(ge=0, le=1_000, strict=True)] | Literal["auto"] = Field(
        0, description="how many go, before channels do; auto: those that cost less loss than channels in their place"
    )
    score: Literal["delta_loss", "gamma_mean", "taylor"] = Field(
        "delta_loss",
        description="what a branch is worth: delta_loss (loss without it), gamma_mean (no data needed) or taylor",
    )


class Prune(Section):
    """Which channels go, and what is done for those that stay."""

    criterion: str | None = Field(
        None,
        description="what a channel is worth: by weights bn_scale, l1, l2, fpgm; on images act_std, act_mean, apoz, "
        "lasso; by the loss on labelled images obs, taylor, group_fisher; a control: random; module:function, of your "
        "own (default: obs where there is data, else l1)",
    )
    solver: Literal["auto", "threshold", "knapsack", "sensitivity"] = Field(
        "auto",
        description="threshold: the lowest scores go first; knapsack: the largest sum of scores that the budget buys; "
        "sensitivity: what a scan of the detector says hurts least; auto: knapsack for latency targets, else threshold",
    )
    scope: Literal["global", "layer"] = Field(
        "global", description="global: compare over the whole detector; layer: the same share everywhere"
    )
    ratio: Share | None = Field(None, description="share of the prunable channels to remove (or give a target)")
    target: Target | None = Field(
        None,
        description="any of {flops, params, latency: share to keep; size_mb: megabytes; latency_ms: milliseconds}",
    )
    sensitivity: Sensitivity = Field(Sensitivity(), description="the scan of solver sensitivity")
    layers: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        {},
        description="module-name pattern -> share to remove there, e.g. {model.2.*: 0.3}; the rest follows the above",
    )
    min_keep: float = Field(0.1, ge=0, le=1, description="share of every group's channels that stays at least")
    min_channels: int = Field(
        8,
        ge=0,
        le=65_536,
        description="channels of every group that stay at least; with min_keep 0, branches may empty",
    )
    round_to: int = Field(
        8, ge=1, le=1_024, description="kept widths are multiples of this: runtimes work in blocks of 8 or 16"
    )
    exclude: list[str] = Field([], description="module-name patterns that stay whole, e.g. [model.0, model.24]")
    normalize: Literal["auto", "none", "mean", "l2", "lamp"] = Field(
        "auto",
        description="make groups comparable: divide scores by the group's mean or l2, or squares by all that are not "
        "smaller (lamp); auto: mean for l1, l2, fpgm, act_std, act_mean",
    )
    per_cost: Literal["auto", "none", "memory", "flops", "params"] = Field(
        "auto", description="divide scores by what removing the channel saves; auto: memory for group_fisher"
    )
    # After group lasso, the default penalty, a channel's layers go together, and l2 is the norm that was pulled on;
    # after penalty=l1 each goes alone, and max keeps what any of them needs.
    group_reduce: Literal["max", "mean", "sum", "l2", "first"] = Field(
        "l2",
        description="joins the scores of layers tied into one group: l2 (root mean square), max (for scales trained "
        "with sparse_train.penalty=l1), mean, sum, first",
    )
    depth: Depth | None = Field(None, description="{blocks: how many residual branches go whole, score: which}")
    bn_fold: bool = Field(
        False, description="score filters as batch norm scales them (l1, l2, fpgm, act_std, act_mean)"
    )
    mix_norm: float = Field(
        0.0, ge=0, le=1, description="fpgm: share of the channels to go that go by l2 norm instead (paper's mix: 0.25)"
    )
    points_per_image: int = Field(10, ge=1, le=100_000, description="lasso: random positions looked at in each image")
    absorb: Literal["measured", "beta", "none"] | None = Field(
        None,
        description="what removed channels carried goes into their readers: measured on images, or act(beta) "
        "(default: measured where there is data, else beta)",
    )
    reconstruct: Literal["lstsq", "none"] | None = Field(
        None,
        description="lstsq: refit what reads removed channels to its outputs in the original, absorption included "
        "(default: lstsq where there is data, else none)",
    )
    recalibrate: int | None = Field(
        None,
        ge=0,
        le=MOST_IMAGES,
        description="training images to measure batch-norm statistics on anew; 0: off (default: off after "
        "reconstruction, else calib_images)",
    )
    calib_images: int = Field(
        256, ge=1, le=MOST_IMAGES, description="training images that criteria and recovery look at"
    )
    seed: int = Field(0, ge=0, le=LARGEST, description="of criterion random and of the calibration images")
    iterations: Iterations = Iterations()

    @model_validator(mode="after")
    def _one_budget(self) -> Prune:
        if self.ratio is not None and self.target is not None:
            raise ValueError("ratio and target both say how much to remove: choose one (`prune.ratio=null` drops it)")
        return self


Losses = Annotated[dict[str, dict[str, Any]], BeforeValidator(lambda value: _by_name(value))]
"""Names of losses, each with its options: `mimic`, `[mimic, cwd]`, `{mimic: 2.0}` and `{cwd: {weight: 1, tau: 4}}`."""


def _by_name(value: Any) -> Any:
    if value is None:
        return {}
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, list):
        if wrong := [name for name in value if not isinstance(name, str)]:
            raise ValueError(f"expected names of losses, got {shown(wrong[0])}")
        return {name: {} for name in value}
    if isinstance(value, dict):
        return {k: {"weight": v} if isinstance(v, (int, float)) and not isinstance(v, bool) else {} if v is None else v
                for k, v in value.items()}  # fmt: skip
    return value


class Distill(Section):
    """What the student pays for differing from its teacher."""

    teacher: str | Annotated[list[str], Field(min_length=1)] = Field(
        "original", description="original (the unpruned detector), or a checkpoint with the same classes, or several"
    )
    features: Losses = Field(
        "auto",
        validate_default=True,
        description="losses of maps: a name, a list, or {name: weight} or {name: {weight: ..., option: ...}}; auto: "
        "channels where the teacher is the original, else mimic",
    )
    outputs: Losses = Field({}, description="losses of predictions, likewise")
    layers: list[str] | dict[str, str] | None = Field(
        None,
        description="modules whose maps are compared, or {the student's: the teacher's}; null: Detect's inputs, for "
        "channels alone every block as well",
    )
    ramp_epochs: float = Field(0.0, ge=0, le=MOST_EPOCHS, description="epochs over which all weights rise from 0")
    stop_before: int = Field(0, ge=0, le=MOST_EPOCHS, description="last epochs without a teacher")
    teacher_images: str | None = Field(
        None, description="folder with other pictures of the training images, under the same names, for the teacher"
    )
    extra_images: str | None = Field(None, description="folder of images without labels, supervised by the teacher")

    @model_validator(mode="after")
    def _something_to_learn(self) -> Distill:
        if not self.features and not self.outputs:
            raise ValueError("expected losses under features or outputs (`finetune.distill=null` leaves it out)")
        if self.teacher_images and self.extra_images:
            raise ValueError("extra_images have no counterpart under teacher_images: choose one of them")
        return self


def check_lesson(chosen: Distill, epochs: int, named: str) -> None:
    """Refuse a schedule on which no epoch has a teacher at full weight.

    Args:
        chosen: the `finetune.distill` section.
        epochs: of the training.
        named: the setting that says so.

    Raises:
        ValueError: with what does not fit into the epochs.
    """
    if chosen.stop_before >= epochs:
        raise ValueError(
            f"finetune.distill.stop_before={chosen.stop_before} leaves no epoch with a teacher: {named}; expected less"
        )
    if chosen.ramp_epochs > epochs - chosen.stop_before:
        raise ValueError(
            f"finetune.distill.ramp_epochs={chosen.ramp_epochs:g} never ends: {named}"
            + (f", the last {chosen.stop_before} without a teacher" if chosen.stop_before else "")
            + f"; expected {epochs - chosen.stop_before} at most"
        )


class Finetune(TrainSection):
    """Training the slim detector, which stays slim."""

    epochs: int = Field(30, ge=1, le=MOST_EPOCHS, description="epochs of fine-tuning")
    distill: Distill | None = Field(
        default_factory=Distill, description="what to learn from a teacher; null: from labels alone"
    )

    @field_validator("distill", mode="before")
    @classmethod
    def _no_switch(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("expected a section such as {teacher: original}, or null, which leaves the teacher out")
        return value

    @model_validator(mode="after")
    def _something_to_learn_in_time(self) -> Finetune:
        if self.distill:
            if self.train.get("distill_model"):
                raise ValueError(
                    "train.distill_model is Ultralytics' own teacher: leave ours out with finetune.distill=null, or "
                    "name it as finetune.distill.teacher instead"
                )
            check_lesson(self.distill, self.epochs, f"finetune.epochs={self.epochs}")
            if self.train.get("time") and (self.distill.ramp_epochs or self.distill.stop_before):
                raise ValueError(
                    "train.time ends a training by the clock: distill.ramp_epochs and stop_before need its epochs"
                )
            if self.distill.extra_images and self.train.get("rect"):
                raise ValueError("distill.extra_images needs images of one shape: leave out train.rect")
        return self


class Latency(Section):
    """What a latency target is measured with: once for a detector, then kept under <runs>/latency."""

    runtime: Literal["openvino", "onnxruntime", "torch"] = Field(
        "onnxruntime", description="what the slim detector will run in, on the CPU; torch: on `device`"
    )
    threads: int | None = Field(
        None, ge=1, le=MOST_THREADS, description="of the runtime; null: as many as the machine has cores"
    )
    samples: int = Field(16, ge=8, le=1_000, description="detectors of random widths that layers are measured in")
    runs: int = Field(20, ge=3, le=MOST_RUNS, description="timed images in each, those of the original in between")


class Bench(Section):
    """The original and the slim detector side by side in the runtimes of this machine; null: not in `run`."""

    runtimes: list[Literal["torch", "onnxruntime", "openvino", "torchscript", "ncnn", "opencv"]] | None = Field(
        None, description="null: all that are installed"
    )
    threads: int | None = Field(
        None, ge=1, le=MOST_THREADS, description="of each runtime; null: as many as the machine has cores"
    )
    batches: list[Annotated[int, Field(ge=1, le=4_096)]] = Field([1], min_length=1, description="images at a time")
    runs: int = Field(50, ge=3, le=MOST_RUNS, description="timed runs of each, in turn")


class Report(Section):
    """How every row is measured: one evaluator, one setting."""

    split: Literal["auto", "val", "test"] = Field("auto", description="auto: test where it has labels, else val")
    latency_runs: int = Field(50, ge=1, le=MOST_RUNS, description="timed images per detector, all detectors in turn")


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


class Export(Section):
    """The files for devices, and the proof that each agrees."""

    formats: list[str] = Field(
        ["onnx"],
        description="files to write: onnx, openvino, torchscript, ncnn, or another of Ultralytics' exporter",
    )
    int8: list[Literal["onnx", "openvino"]] = Field(
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


LONGEST_RUN = 128
"""Bytes of a run's name: longer ones leave no room for what is made of them."""

RESERVED = {"latency", "con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
"""Names that are no run's: <runs>/latency keeps what layers take, the others are devices of Windows."""


class Config(Section):
    """One experiment: runs/<name>/..."""

    name: str = Field("slim", pattern=r"^[\w-][\w.-]*$", description="results go to <runs>/<name>/")
    model: str | None = Field(
        None,
        description="what to slim: an Ultralytics .pt, or a model .yaml for an untrained one (null: the run's; a new "
        "run needs one)",
    )
    data: str | None = Field(
        None, description="an Ultralytics data-set YAML (null: the run's; prune alone works without)"
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
    original: Original = Original()
    sparse_train: SparseTrain = SparseTrain()
    prune: Prune = Prune()
    finetune: Finetune = Finetune()
    latency: Latency = Latency()
    bench: Bench | None = Bench()
    report: Report = Report()
    sweep: Sweep = Sweep()
    export: Export = Export()

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
        if tuned.rounds > 1 and self.finetune.distill:
            check_lesson(self.finetune.distill, tuned.epochs, f"prune.iterations.epochs={tuned.epochs}")
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
