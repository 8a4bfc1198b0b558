"""All stages in order, skipping what is done."""

from __future__ import annotations

import importlib.util

from yolo_slim.config import Config
from yolo_slim.record import Record
from yolo_slim.stages.choose import rehearse
from yolo_slim.stages.common import console
from yolo_slim.stages.export import export
from yolo_slim.stages.finetune import finetune, rehearse_distill
from yolo_slim.stages.prune import prune_stage
from yolo_slim.stages.report import report_stage
from yolo_slim.stages.sparse_train import sparse_train


def run(config: Config) -> Record:
    """From detector to slim detector, with its report."""
    rehearse(config)
    rehearse_distill(config)
    if config.sparse_train.epochs:
        sparse_train(config)
    prune_stage(config)
    finetune(config)
    if importlib.util.find_spec("onnxruntime") and config.export.formats:
        export(config)
    else:
        console.print("export: skipped (pip install yolo-slim[export] for ONNX)")
    return report_stage(config)
