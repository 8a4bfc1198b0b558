"""Settings of the stages that train."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WrapValidator, model_validator

from yolo_slim.config.base import MOST_EPOCHS, MOST_STEPS, Section, TrainSection
from yolo_slim.errors import shown


class Original(TrainSection):
    """Training before anything is slimmed: of a YAML's untrained detector, or of one made for other classes."""

    epochs: int = Field(
        100, ge=1, le=MOST_EPOCHS, description="epochs to train an untrained model, or a transferred one, for"
    )
    transfer: bool = Field(
        False,
        description="model is a checkpoint of other classes or data: it is trained for those of `data` first; what "
        "tells classes apart starts afresh where they are others",
    )


class SparseTrain(TrainSection):
    """Training that makes channels go, or show that they may."""

    epochs: int = Field(
        30, ge=0, le=MOST_EPOCHS, description="epochs of it; 0: no sparse training, `run` goes on to prune"
    )
    mode: Literal["auto", "targeted", "uniform", "soft", "polarization"] = Field(
        "auto",
        description="auto: targeted where a cut that nothing has trained keeps too little and the epochs suffice, else "
        "no sparse training; targeted: fade the channels that the prune: section removes to zero; uniform: pull on all "
        "scales; soft: zero their filters again and again (SFP: prune.criterion=l2 prune.scope=layer prune.ratio=0.3); "
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


def _auto_or_section(value: Any, _: Any) -> Any:
    # As a union, every mistake in the section would be told twice, once as no `auto`.
    if value is None or value == "auto":
        return value
    if not isinstance(value, (dict, Distill)):
        raise ValueError(
            f"expected auto, a section such as {{teacher: original}}, or null, which leaves the teacher out, got "
            f"{shown(value)}"
        )
    return Distill.model_validate(value)


class Match(Section):
    """Recovery by matching: how long, and on how many images at a time."""

    steps: int | None = Field(None, ge=1, le=MOST_STEPS, description="steps of the optimizer (or give seconds)")
    seconds: float | None = Field(
        None, gt=0, le=1e6, description="seconds it takes at most; with steps, the same outcome every time"
    )
    batch: int = Field(8, ge=1, le=4_096, description="images of a step")

    @model_validator(mode="after")
    def _one_length(self) -> Match:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("expected one of {steps, seconds}, e.g. recover.match.seconds=600")
        return self


class Recover(Section):
    """Recovery after the cut that trains, and reads no label."""

    match: Match | None = Field(
        None,
        description="train the slim detector to say what the original says, on images without labels: {seconds: 600} "
        "or {steps: 200}; null: least squares alone",
    )


class Finetune(TrainSection):
    """Training the slim detector, which stays slim."""

    epochs: int = Field(30, ge=1, le=MOST_EPOCHS, description="epochs of fine-tuning")
    distill: Annotated[Distill | Literal["auto"] | None, WrapValidator(_auto_or_section)] = Field(
        "auto",
        description="what to learn from a teacher; auto: the maps of the original, where the cut has lost enough; "
        "null: from labels alone",
    )

    @model_validator(mode="after")
    def _something_to_learn_in_time(self) -> Finetune:
        if lesson := self.lesson:
            if self.train.get("distill_model"):
                raise ValueError(
                    "train.distill_model is Ultralytics' own teacher: leave ours out with finetune.distill=null, or "
                    "name it as finetune.distill.teacher instead"
                )
            check_lesson(lesson, self.epochs, f"finetune.epochs={self.epochs}")
            if self.train.get("time") and (lesson.ramp_epochs or lesson.stop_before):
                raise ValueError(
                    "train.time ends a training by the clock: distill.ramp_epochs and stop_before need its epochs"
                )
            if lesson.extra_images and self.train.get("rect"):
                raise ValueError("distill.extra_images needs images of one shape: leave out train.rect")
        return self

    @property
    def lesson(self) -> Distill | None:
        """What may be learned from a teacher: where `auto` finds that it pays, from the original."""
        return Distill() if self.distill == "auto" else self.distill
