"""Sparse training: make channels go while training goes on, or show that they may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from yolo_slim import checkpoint, record
from yolo_slim.channels import Plan, silent, trace
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.errors import SlimError
from yolo_slim.importance import score
from yolo_slim.pruning.choose import sources
from yolo_slim.record import Record
from yolo_slim.runs.rows import measured
from yolo_slim.runs.stage import run_stage
from yolo_slim.stages.begun import begun
from yolo_slim.stages.checks import check_training
from yolo_slim.stages.common import check_data, look_of, say, tracked, train_arguments
from yolo_slim.stages.compress import whole
from yolo_slim.stages.entry import begins
from yolo_slim.stages.landing_time import check_steps, landing_arguments
from yolo_slim.stages.modes import RECOVERY, TRAINERS, check_compatible, decisive, files_of, landing_mode
from yolo_slim.stages.plan import FILE, plan_stage
from yolo_slim.stages.sensitivity import scanned
from yolo_slim.stages.trial import decided
from yolo_slim.training.folder import train_in
from yolo_slim.training.polarization import first_local_min
from yolo_slim.training.regularized import write_log


@begins
def sparse_train(config: Complete) -> Record | None:
    """runs/<name>/sparse/sparse.pt, sparsity.csv (the scales by epoch), and in modes that know what goes, plan.json.

    None, where mode=auto has come to the conclusion that it does not pay.
    """
    if not config.sparse_train.epochs:
        raise SlimError("sparse_train.epochs=0 leaves this stage out: say how long, e.g. sparse_train.epochs=30")
    check_data(config)
    check_training(config, begun(config), ["sparse_train"])
    config = decided(config)
    chosen = config.sparse_train
    if not chosen.epochs:
        return None
    planned, by = landing_mode(config), config.prune
    check_compatible(by, planned)
    check_steps(config)
    start = whole(config)
    settings = {**chosen.model_dump(exclude={"min_steps"}), "imgsz": config.imgsz, "seed": config.seed}
    inputs = [start]
    if planned == "targeted":
        made = plan_stage(config, "plan", start, by, look_of(config, start))
        inputs.append(made.output(config.folder / made.stage, "plan"))
        settings["recovery"] = by.model_dump(mode="json", include=RECOVERY)
    if planned == "soft" or (planned and chosen.rechoose):
        settings["prune"] = decisive(config, by)
        inputs += [*([scanned(config)] if by.solver == "sensitivity" else []), *sources(by.criterion)]

    def work(folder: Path) -> tuple:
        arguments = train_arguments(config, chosen.epochs, landing_arguments(config))
        trained = train_in(
            folder,
            TRAINERS[chosen.mode],
            start,
            settings=settings,
            inputs=inputs,
            extra={**files_of(config), **tracked(config, folder)},
            arguments=arguments,
        )
        last = trained / "last.pt"
        # The last epoch, not the best one: the scales are what this stage is for.
        ckpt = checkpoint.read(last)
        detector = checkpoint.detector_of(ckpt, last)
        if chosen.weights == "live":
            detector.load_state_dict(ckpt["live"])
        outputs = {"weights": checkpoint.save(detector, folder / "sparse.pt")}
        if planned:
            outputs["plan"] = folder / FILE
            record.write_json(outputs["plan"], _plan(ckpt, detector, config).as_json)
        row = measured(config, outputs["weights"])
        say(config, "sparse", row, outputs["weights"])
        more = _parted(detector, config) if chosen.mode == "polarization" else {}
        more |= {"chosen": decisive(config, by)} if planned else {}
        write_log(folder / "train", ckpt["log"])  # a kill may have left it half-written
        log = [{k: float(v) for k, v in line.items()} for line in ckpt["log"]]
        return outputs, row, {"sparsity": log, **more}

    return run_stage(config, "sparse", settings, inputs, work)


def _parted(detector: nn.Module, config: Complete) -> dict[str, Any]:
    """The threshold that the histogram of the scales suggests, and the share of the channels below it; both told."""
    scores = score(detector, trace(detector, config.imgsz), "bn_scale")
    scales = np.concatenate(list(scores.values()))
    scales = scales[np.isfinite(scales)]
    threshold = first_local_min(scales)
    share = 0.0 if threshold is None else float((scales < threshold).mean())
    if share:
        console.print(
            f"the scales part at {threshold:.2f}: {share:.1%} of the channels lie below it, and go with "
            f"prune.criterion=bn_scale prune.target=null prune.ratio={share:.3f}"
        )
    else:
        console.print("the scales have not parted: raise sparse_train.strength or sparse_train.epochs")
    return {"threshold": threshold, "share_below": share}


def _plan(ckpt: dict[str, Any], detector: nn.Module, config: Complete) -> Plan:
    """The plan that training has ended with: convolution -> outputs that stay, where any go."""
    wiring = trace(detector, config.imgsz)
    if ckpt["kept"] is None:
        raise SlimError("sparse training stopped before it chose any channels: train for more epochs, or lower `every`")
    kept = ckpt["kept"].numpy()
    if config.sparse_train.mode == "targeted" and not silent(detector, wiring, kept):
        raise SlimError(
            f"training stopped after epoch {ckpt['epoch'] + 1}, before its landing was over (sparse_train.landing="
            f"{config.sparse_train.landing:g} of {config.sparse_train.epochs} epochs): raise patience, or land earlier"
        )
    return Plan.of(wiring, kept)
