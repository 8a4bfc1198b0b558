"""What a run begins with: a detector as its file has it, an untrained one, or one for other classes than its own."""

from __future__ import annotations

from yolo_slim import checkpoint
from yolo_slim.config import Complete
from yolo_slim.data import dataset_info
from yolo_slim.data.names import ONE, numbered
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.families import for_classes


def is_yaml(model: str) -> bool:
    """Whether it describes an untrained detector."""
    return model.endswith((".yaml", ".yml"))


def is_trained_first(config: Complete) -> bool:
    """Whether the original stage trains."""
    return is_yaml(config.model) or config.original.transfer


def begun(config: Complete) -> Detector:
    """The detector that the original stage keeps, or trains first.

    Raises:
        SlimError: `original.transfer` of what is untrained, without a data set, or of a family that has no such thing.
    """
    if not config.original.transfer:
        return checkpoint.load(config.model, config.weights)
    if is_yaml(config.model):
        raise SlimError(f"original.transfer: {config.model} describes an untrained detector: leave it out")
    if not config.data:
        raise SlimError("original.transfer: trains for the classes of a data set: data=path/to/data.yaml")
    detector = checkpoint.load(config.model, config.weights)
    single = bool(config.original.train.get("single_cls"))
    names = dict(ONE) if single else numbered(dataset_info(config.data)["names"])
    return detector if names == numbered(detector.names) else for_classes(detector, names)
