"""A plan that sparse training has made: whether it still holds, and what it comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from yolo_slim import record
from yolo_slim.channels import Costs, Selection, Trace, plan_from_kept
from yolo_slim.config import Config, Prune
from yolo_slim.errors import SlimError

PLANNED = {"targeted", "soft"}
"""Modes of sparse training that choose the channels themselves, by the `prune:` section."""
RECOVERY = {"absorb", "recalibrate"}
"""Settings of `prune:` that have no say in which channels go."""


def decisive(config: Config) -> dict[str, Any]:
    """What decides which channels go: a plan made before holds as long as this is the same."""
    chosen = {k: v for k, v in config.prune.model_dump(mode="json").items() if k not in RECOVERY}
    return {**chosen, "imgsz": config.imgsz}


def landed_plan(config: Config) -> Path | None:
    """The plan that sparse training has worked towards, in the modes that have one.

    Raises:
        SlimError: there is none yet, or it was made for another budget.
    """
    mode, folder = config.sparse_train.mode, config.folder / "sparse"
    if mode not in PLANNED or not config.sparse_train.epochs:
        return None
    done = record.read(folder)
    if done is None or "plan" not in done.outputs or done.settings["mode"] != mode:
        raise SlimError(
            f"sparse_train.mode={mode} chooses channels before pruning, and {folder} has no such plan: run `yolo-slim "
            "sparse-train` with this configuration first, or prune without it: sparse_train.epochs=0"
        )
    then, now = done.settings["prune"], decisive(config)
    changed = [f"{k}: {now.get(k)} (then: {then.get(k)})" for k in now | then if now.get(k) != then.get(k)]
    if changed:
        raise SlimError(
            f"the channels that {folder} has brought to zero are not those that the prune: section asks for now: "
            f"{', '.join(changed)}. Run `yolo-slim sparse-train` again, it lands the new plan; or set that back; "
            "or choose anew from the weights as they are: sparse_train.mode=uniform"
        )
    return done.output(folder, "plan")


def follow(wiring: Trace, outputs: dict[str, list[int]], chosen: Prune) -> Selection:
    """The plan as it stands, with what it comes to."""
    plan, costs = plan_from_kept(wiring, outputs), Costs(wiring)
    before, after = costs.of(costs.full), costs.of(plan.keeps(wiring))
    free = np.concatenate([g.channels for g in wiring.free])
    achieved = {
        "flops": after.macs / before.macs,
        "params": after.params / before.params,
        "channels": float(plan.kept[free].mean()),
    }
    asked = chosen.target.model_dump(exclude_none=True) if chosen.target else {}
    if chosen.ratio is not None:
        asked["channels"] = 1 - chosen.ratio
    return Selection(plan, before, after, asked, achieved)
