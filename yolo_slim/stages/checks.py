"""What is wrong with a configuration shows before hours of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from yolo_slim.channels import Curve, trace
from yolo_slim.config import Complete
from yolo_slim.data import dataset_info, labelled
from yolo_slim.formats.detector import Detector
from yolo_slim.importance import Evidence, criterion_of
from yolo_slim.pruning import depth
from yolo_slim.pruning.choose import choose, findings
from yolo_slim.stages.begun import begun, is_trained_first, is_yaml
from yolo_slim.stages.landing_time import check_steps
from yolo_slim.stages.modes import check_compatible, landing_mode
from yolo_slim.training.folder import check_fits


def check_run(config: Complete) -> None:
    """Plan a cut of the detector as it is: what is wrong with the `prune:` section shows before hours of training.

    Raises:
        SlimError: train arguments that do not fit the detector, settings that do not go together, an unknown
        criterion, a pattern that matches nothing, a target that cannot be met, a landing in too few steps.
    """
    chosen = config.prune
    check_compatible(chosen, landing_mode(config))
    if chosen.criterion is not None:
        criterion_of(chosen.criterion)
    detector = begun(config)
    check_training(config, detector)
    whole = trace(detector, config.imgsz)
    blocks = depth.any_blocks(whole, chosen)
    base, wiring = depth.without(detector, whole, blocks, "none", ())
    harmless = {g.name: Curve((1.0,), (0.0,)) for g in wiring.free}  # a scan would take minutes
    found = replace(findings(config, detector, timed=False), curves=harmless)
    any_scores = chosen.model_copy(update={"criterion": "random"})  # budgets are met or not whatever they are
    choose(base, wiring, any_scores, Evidence(), whole=whole if blocks else None, found=found)
    check_steps(config)
    if config.data and (config.sparse_train.epochs or config.finetune.epochs):
        labelled(config.data, "val")  # its images can be read


SECTIONS = ("original", "sparse_train", "finetune")
"""Those that train."""


def check_training(config: Complete, detector: Detector, sections: Sequence[str] = SECTIONS) -> None:
    """What the `train:` sections ask for is there: layers, classes, a teacher; told before hours of training.

    Raises:
        SlimError: with the section and the argument.
    """
    classes = dataset_info(config.data)["nc"] if is_yaml(config.model) and config.data else None
    if config.original.train.get("single_cls"):
        classes = 1
    for name in sections:
        chosen, where = getattr(config, name), f"{name}.train"
        if not chosen.epochs or (name == "original" and not is_trained_first(config)):
            continue
        check_fits(detector, {**chosen.train, "data": config.data, "imgsz": config.imgsz}, where, classes)
