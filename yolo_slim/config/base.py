"""What a section of settings is, and the bounds of what can be meant."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from yolo_slim.config.arguments import check_train_arguments
from yolo_slim.config.hints import as_list, model_in
from yolo_slim.config.values import check_value

MOST_EPOCHS, MOST_STEPS, MOST_IMAGES, MOST_RUNS, MOST_THREADS = 100_000, 10_000_000, 10_000_000, 100_000, 1_024
WIDEST = 16_384
"""Bounds of what can be meant: of epochs, images, timed runs, threads or processes, and of a side in pixels."""

Share = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _sound(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name].annotation if info.field_name else None
        if model_in(annotation) is None:  # a section looks at its own
            value = as_list(annotation, value)
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
