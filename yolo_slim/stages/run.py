"""All stages in order, skipping what is done."""

from __future__ import annotations

from yolo_slim.config import Complete, Match, Recover
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.record import Record
from yolo_slim.stages.auto import trained
from yolo_slim.stages.bench import bench
from yolo_slim.stages.chain import chain_of
from yolo_slim.stages.checks import check_run
from yolo_slim.stages.common import check_data
from yolo_slim.stages.compress import compress
from yolo_slim.stages.entry import begins
from yolo_slim.stages.export import check_export, export, how, missing
from yolo_slim.stages.finetune import finetune
from yolo_slim.stages.lesson import check_distill
from yolo_slim.stages.prune import prune_stage
from yolo_slim.stages.recover import recover
from yolo_slim.stages.report import report_stage
from yolo_slim.stages.sparse_train import sparse_train
from yolo_slim.stages.trial import decided

SECONDS = 600
"""Of recovery by matching, where that is all the training there is."""


@begins
def run(config: Complete) -> Record:
    """From detector to slim detector, with its report."""
    if config.images and not config.data:
        config = from_pictures(config)
    else:
        check_data(config)
    chain = chain_of(config)
    check_export(config)
    if chain.prunes:
        check_run(config)
        check_distill(config)
        pruned(config)
    if chain.behind:
        compress(config)
    try:
        if lacking := missing(config):
            console.print(f"export: skipped, it needs {', '.join(lacking)} ({how(config)})", markup=False)
        elif config.export.formats + config.export.int8:
            export(config)
        if config.bench:
            bench(config)
    except SlimError:
        report_stage(config)  # hours of training have come to something all the same, and it tells what failed
        raise
    return report_stage(config)


def pruned(config: Complete) -> None:
    """Channel pruning, with all that belongs to it."""
    config = decided(config)
    if config.sparse_train.epochs:
        sparse_train(config)
    prune_stage(config)
    if config.recover.match:
        recover(config)
    if config.data:
        finetune(config)


def from_pictures(config: Complete) -> Complete:
    """What is left where there are pictures alone: the cut, recovery by matching, and no training on labels."""
    console.print(
        "no data set: mAP is not measured, the slim detector learns from the original what to say, and nothing is "
        "exported, since exported files are compared on labelled images"
    )
    chosen = config.recover if config.recover.match else Recover(match=Match(seconds=SECONDS))
    export = config.export.model_copy(update={"formats": [], "int8": []})
    return trained(config, epochs=0).model_copy(update={"recover": chosen, "export": export})
