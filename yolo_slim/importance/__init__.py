"""How much a channel matters: one idea a file, one dict of names.

A criterion maps a detector and its trace to raw scores: for every free group, an array (m, n) with one row for each
slot a channel fills in a producer. `score` joins the rows, makes groups comparable, and hands out one score a channel.
To add your own, put a function of the same signature into `CRITERIA` (README: "Add a criterion").
"""

from yolo_slim.importance.bn_scale import bn_scale
from yolo_slim.importance.combine import CRITERIA, RAW_NORMS, REDUCE, Criterion, rows_of, score
from yolo_slim.importance.magnitude import l1, l2
from yolo_slim.importance.uniform import random

CRITERIA.update({"bn_scale": bn_scale, "l1": l1, "l2": l2, "random": random})

__all__ = ["CRITERIA", "RAW_NORMS", "REDUCE", "Criterion", "bn_scale", "l1", "l2", "random", "rows_of", "score"]
