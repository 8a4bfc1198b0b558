"""How much a channel matters: one idea a file, one dict of names.

A criterion maps a detector, its trace and the evidence to raw scores: for every free group an array (m, n), a row for
each layer slot that has something to say. `score` joins the rows, makes groups comparable, and hands out one score a
channel. To add your own, put a function of the same signature into `CRITERIA`, or name it as `module:function`
(docs/extend.md).
"""

from yolo_slim.importance.activation import act_mean, act_std, apoz
from yolo_slim.importance.blocks import BLOCK_SCORES, mean_loss, score_blocks
from yolo_slim.importance.bn_scale import bn_scale
from yolo_slim.importance.combine import (
    CRITERIA,
    REDUCE,
    Criterion,
    Rows,
    criterion_of,
    rows_of,
    score,
    scored,
    source_of,
)
from yolo_slim.importance.evidence import Evidence
from yolo_slim.importance.fpgm import fpgm
from yolo_slim.importance.group_fisher import group_fisher
from yolo_slim.importance.lasso import lasso
from yolo_slim.importance.magnitude import l1, l2
from yolo_slim.importance.obs import obs
from yolo_slim.importance.taylor import taylor
from yolo_slim.importance.uniform import random

CRITERIA.update({"bn_scale": bn_scale, "l1": l1, "l2": l2, "fpgm": fpgm})
CRITERIA.update({"act_std": act_std, "act_mean": act_mean, "apoz": apoz, "lasso": lasso})
CRITERIA.update({"taylor": taylor, "group_fisher": group_fisher, "obs": obs})
CRITERIA["random"] = random

__all__ = [
    "BLOCK_SCORES",
    "CRITERIA",
    "REDUCE",
    "Criterion",
    "Evidence",
    "Rows",
    "criterion_of",
    "mean_loss",
    "rows_of",
    "score",
    "score_blocks",
    "scored",
    "source_of",
]
