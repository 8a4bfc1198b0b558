"""Everything a user may set, checked at the door: a YAML, `key=value` on top of it, all errors at once."""

from __future__ import annotations

import importlib.util
import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from yolo_slim.errors import SlimError

OURS = {
    "model",
    "data",
    "imgsz",
    "device",
    "epochs",
    "seed",
    "project",
    "name",
    "save_dir",
    "resume",
    "task",
    "mode",
    "exist_ok",
}
"""Ultralytics arguments that have a setting of their own here."""

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

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError(f"expected a number, got {value}")
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

    epochs: int = Field(100, ge=1, description="epochs to train an untrained model for")


class SparseTrain(TrainSection):
    """Training that makes channels go, or show that they may."""

    epochs: int = Field(30, ge=0, description="epochs of it; 0: no sparse training, `run` goes on to prune")
    mode: Literal["targeted", "uniform", "soft", "polarization"] = Field(
        "targeted",
        description="targeted: fade the channels that the prune: section removes to zero; uniform: pull on all scales; "
        "soft: zero their filters again and again (SFP: prune.criterion=l2 prune.scope=layer prune.ratio=0.3); "
        "polarization: part the scales in two",
    )
    strength: float = Field(
        0.3,
        ge=0,
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
    rechoose: int = Field(0, ge=0, description="targeted: epochs between choosing anew who goes next; 0: never")
    every: int = Field(1, ge=1, description="soft: epochs between two zeroings")
    polarization_t: float = Field(1.2, ge=0, le=2, description="polarization: t; a share of 1/2 - t/4 is let stay")
    weights: Literal["live", "average"] = Field(
        "live", description="what goes to the pruner: the weights themselves or the moving average of them"
    )

    @model_validator(mode="after")
    def _fits_the_mode(self) -> SparseTrain:
        if self.mode != "uniform" and self.update == "subgradient":
            raise ValueError(f"update=subgradient is a form of mode=uniform: mode={self.mode} has none")
        if self.mode == "soft" and self.weights == "average":
            raise ValueError("mode=soft zeroes filters of the live weights: weights=average would not see it")
        return self


class Target(Section):
    """A budget, as the share of the original that may stay."""

    flops: Share | None = Field(None, description="share of the FLOPs to keep")
    params: Share | None = Field(None, description="share of the parameters to keep")
    size_mb: float | None = Field(None, gt=0, description="megabytes (1e6 bytes) that the checkpoint may have")
    latency: Share | None = Field(None, description="share of the measured time of an image to keep (see `latency:`)")
    latency_ms: float | None = Field(None, gt=0, description="milliseconds an image may take, nothing else running")

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
    images: int = Field(256, ge=1, description="val images that the loss is measured on (map50_95: on all there are)")
    tolerance: float | None = Field(
        None,
        ge=0,
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

    rounds: int = Field(1, ge=1, description="cuts; between them the detector is fine-tuned as under `finetune:`")
    schedule: Literal["exponential", "linear", "cubic"] = Field(
        "exponential",
        description="exponential: the same share of what is left each round; linear: as much; cubic: most of it early",
    )
    epochs: int = Field(5, ge=1, description="epochs of fine-tuning after each round but the last")
    stop_if_map_drop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="stop when a fine-tuned round is more than this mAP50-95 (val) below the original; 0.02: 2 points",
    )


class Depth(Section):
    """Residual branches that go whole."""

    blocks: Annotated[int, Field(ge=0, strict=True)] | Literal["auto"] = Field(
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
        description="channels of every group that stay at least; with min_keep 0, branches may empty",
    )
    round_to: int = Field(8, ge=1, description="kept widths are multiples of this: runtimes work in blocks of 8 or 16")
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
    points_per_image: int = Field(10, ge=1, description="lasso: random positions looked at in each image")
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
        description="training images to measure batch-norm statistics on anew; 0: off (default: off after "
        "reconstruction, else calib_images)",
    )
    calib_images: int = Field(256, ge=1, description="training images that criteria and recovery look at")
    seed: int = Field(0, ge=0, description="of criterion random and of the calibration images")
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
        return {name: {} for name in value}
    if isinstance(value, dict):
        return {k: {"weight": v} if isinstance(v, (int, float)) and not isinstance(v, bool) else v or {}
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
    ramp_epochs: float = Field(0.0, ge=0, description="epochs over which all weights rise from 0")
    stop_before: int = Field(0, ge=0, description="last epochs without a teacher")
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

    epochs: int = Field(30, ge=1, description="epochs of fine-tuning")
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
            if self.distill.extra_images and self.train.get("rect"):
                raise ValueError("distill.extra_images needs images of one shape: leave out train.rect")
        return self


class Latency(Section):
    """What a latency target is measured with: once for a detector, then kept under <runs>/latency."""

    runtime: Literal["openvino", "onnxruntime", "torch"] = Field(
        "onnxruntime", description="what the slim detector will run in, on the CPU; torch: on `device`"
    )
    threads: int | None = Field(None, ge=1, description="of the runtime; null: as many as the machine has cores")
    samples: int = Field(16, ge=8, description="detectors of random widths that layers are measured in")
    runs: int = Field(20, ge=3, description="timed images in each, those of the original in between")


class Bench(Section):
    """The original and the slim detector side by side in the runtimes of this machine; null: not in `run`."""

    runtimes: list[Literal["torch", "onnxruntime", "openvino", "torchscript", "ncnn", "opencv"]] | None = Field(
        None, description="null: all that are installed"
    )
    threads: int | None = Field(None, ge=1, description="of each runtime; null: as many as the machine has cores")
    batches: list[Annotated[int, Field(ge=1)]] = Field([1], min_length=1, description="images at a time")
    runs: int = Field(50, ge=3, description="timed runs of each, in turn")


class Report(Section):
    """How every row is measured: one evaluator, one setting."""

    split: Literal["auto", "val", "test"] = Field("auto", description="auto: test where the data set has one, else val")
    latency_runs: int = Field(50, ge=1, description="timed images per detector, all detectors in turn")


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
    workers: int = Field(2, ge=1, description="points made at a time, sharing the cores")
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
    calib_images: int = Field(256, ge=1, description="training images that INT8 scales are measured on")
    imgsz: int | None = Field(None, ge=32, multiple_of=32, description="image side in pixels (default: imgsz)")
    dynamic: bool = Field(False, description="any batch and image size, where the format can")
    opset: int | None = Field(None, ge=7, description="of ONNX (default: the newest that Ultralytics trusts)")
    simplify: bool = Field(True, description="simplify ONNX graphs")
    nms: bool = Field(False, description="build non-maximum suppression in, where the format can")
    images: int = Field(8, ge=1, description="real images to compare raw outputs on")
    tolerance: float = Field(1e-3, gt=0, description="largest difference to PyTorch, relative, before the stage fails")
    map_tolerance: float = Field(0.001, ge=0, description="likewise for mAP50-95; 0.001: 0.1 points")
    int8_tolerance: float = Field(0.015, ge=0, description="mAP50-95 that an INT8 file may lose; 0.015: 1.5 points")

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
    seed: int = Field(0, ge=0, description="of every training")
    original: Original = Original()
    sparse_train: SparseTrain = SparseTrain()
    prune: Prune = Prune()
    finetune: Finetune = Finetune()
    latency: Latency = Latency()
    bench: Bench | None = Bench()
    report: Report = Report()
    sweep: Sweep = Sweep()
    export: Export = Export()

    @model_validator(mode="after")
    def _rounds_are_taught_too(self) -> Config:
        tuned = self.prune.iterations
        if tuned.rounds > 1 and self.finetune.distill:
            check_lesson(self.finetune.distill, tuned.epochs, f"prune.iterations.epochs={tuned.epochs}")
        return self

    @property
    def folder(self) -> Path:
        """Where this experiment's results are."""
        return Path(self.runs) / self.name


def read_config(path: str | Path | None, settings: list[str]) -> Config:
    """Settings from a YAML and from `dotted.key=value` words, of which the words win.

    Raises:
        SlimError: every error at once, each with its key and, for an unknown one, the nearest known.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = _parse(Path(path).read_text(encoding="utf-8")) or {}
        except OSError as e:
            raise SlimError(f"cannot read the configuration {path}: {e.strerror or e}") from e
        except (yaml.YAMLError, UnicodeDecodeError) as e:
            raise SlimError(f"{path} is not YAML: {e}") from e
        if not isinstance(values, dict):
            raise SlimError(f"expected settings (key: value) in {path}, got a {type(values).__name__}")
    for word in settings:
        _set(values, word)
    return check(values, str(path or "command line"))


def check(values: dict[str, Any], source: str = "settings") -> Config:
    """Settings as a nested dict, checked.

    Raises:
        SlimError: all that is wrong with them.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as e:
        raise SlimError(f"{source}:\n" + "\n".join(f"  {line}" for line in map(_explain, e.errors()))) from e


class _Yaml(yaml.SafeLoader):
    """YAML 1.1 takes 1e-3 for a text; here it is a number, as in YAML 1.2 and Python."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Yaml)


def _set(values: dict[str, Any], word: str) -> None:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise SlimError(f"expected key=value, e.g. prune.ratio=0.5, got {word!r}")
    *path, last = key.split(".")
    # A pattern of module names holds dots itself: everything behind prune.layers is one key.
    if path[:2] == ["prune", "layers"]:
        path, last = path[:2], ".".join([*path[2:], last])
    for step in path:
        inner = values.get(step)
        values[step] = dict(inner) if isinstance(inner, dict) else {}
        values = values[step]
    try:
        values[last] = _parse(text)
    except yaml.YAMLError as e:
        raise SlimError(f"cannot read the value of {key}: {text!r}") from e


def _explain(error: Any) -> str:
    """One pydantic error as a line for the person who must fix it."""
    where = [str(part) for part in error["loc"]]
    key = ".".join(where)
    if error["type"] == "extra_forbidden":
        near = get_close_matches(where[-1], _fields(where[:-1]), n=1, cutoff=0.5)
        return f"{key}: unknown setting" + (f"; did you mean {'.'.join([*where[:-1], near[0]])}?" if near else "")
    if error["type"] == "missing":
        return f"{key}: needed, e.g. {key}=best.pt"
    message = error["msg"].removeprefix("Value error, ")
    got = "" if error["type"] == "value_error" else f", got {error['input']!r}"
    return f"{key}: {message}{got}" if key else message


def words(settings: dict[str, Any], path: tuple[str, ...] = ()) -> list[str]:
    """Nested settings as one types them: `read_config` gives the same settings for these words."""
    found = []
    for key, value in settings.items():
        here = (*path, key)
        if isinstance(value, dict) and value and section(list(here)) is not None:
            found += words(value, here)
        else:
            plain = isinstance(value, str) and re.fullmatch(r"[\w./+-]+", value) and _parse(value) == value
            found.append(f"{'.'.join(here)}={value if plain else json.dumps(value)}")
    return found


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


def _fields(path: list[str]) -> list[str]:
    found = section(path)
    return list(found.model_fields) if found else []


def check_train_arguments(arguments: dict[str, Any]) -> None:
    """Refuse what Ultralytics would not take, before anything runs.

    Raises:
        ValueError: with every unknown, mistyped or doubly set argument.
    """
    from ultralytics.cfg import check_cfg  # imported late: it takes seconds, and --help does not need it
    from ultralytics.utils import DEFAULT_CFG_DICT

    wrong = []
    for key, value in arguments.items():
        if key in OURS:
            wrong.append(f"{key} is set by yolo-slim: use its own setting")
        elif key not in DEFAULT_CFG_DICT:
            near = get_close_matches(key, sorted(DEFAULT_CFG_DICT.keys() - OURS), n=1, cutoff=0.5)
            wrong.append(f"{key}: Ultralytics has no such argument" + (f"; did you mean {near[0]}?" if near else ""))
        else:
            try:
                check_cfg({key: value})
            except (TypeError, ValueError) as e:
                wrong.append(f"{key}: {e}")
    # Ultralytics would install it by itself.
    if str(arguments.get("quantize")) in ("8", "int8", "w8a8") and importlib.util.find_spec("modelopt") is None:
        wrong.append("quantize=8, training for INT8, needs nvidia-modelopt: pip install yolo-slim[qat]")
    if wrong:
        raise ValueError("; ".join(wrong))


def check_formats(formats: list[str]) -> None:
    """Refuse what Ultralytics cannot export to, and what cannot be had without installing on the way.

    Raises:
        ValueError: with every unknown format, and those there are.
    """
    if "mnn" in formats:  # MNN/tools/utils/log.py: os.system("pip install ...")
        raise ValueError("mnn: its package runs pip when it is imported, which may break others: `yolo export` has it")
    from ultralytics.engine.exporter import export_formats  # imported late, as above

    known = export_formats()["Argument"][1:]  # the first is PyTorch
    if unknown := [name for name in formats if name not in known]:
        raise ValueError(f"Ultralytics has no format {', '.join(unknown)}; expected some of {', '.join(known)}")
