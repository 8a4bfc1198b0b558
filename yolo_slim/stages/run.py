"""All stages in order, skipping what is done."""

from __future__ import annotations

from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.record import Record
from yolo_slim.stages.bench import bench
from yolo_slim.stages.checks import check_run
from yolo_slim.stages.entry import begins
from yolo_slim.stages.export import check_export, export, missing
from yolo_slim.stages.finetune import check_distill, finetune
from yolo_slim.stages.prune import prune_stage
from yolo_slim.stages.report import report_stage
from yolo_slim.stages.sparse_train import sparse_train


@begins
def run(config: Complete) -> Record:
    """From detector to slim detector, with its report."""
    check_run(config)
    check_distill(config)
    check_export(config)
    if config.sparse_train.epochs:
        sparse_train(config)
    prune_stage(config)
    finetune(config)
    try:
        if lacking := missing(config):
            console.print(f"export: skipped, it needs {', '.join(lacking)} (pip install yolo-slim[export])")
        elif config.export.formats + config.export.int8:
            export(config)
        if config.bench:
            bench(config)
    except SlimError:
        report_stage(config)  # hours of training have come to something all the same, and it tells what failed
        raise
    return report_stage(config)
