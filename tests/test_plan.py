"""A plan: which channels stay, by group and by convolution. (Replaying a saved one: test_surgery.py.)"""

import numpy as np
from networks import Line

from yolo_slim.channels import Plan, trace


def test_a_plan_says_how_many_each_group_keeps():
    found = trace(Line(1, 3, 5, 1), 1)
    kept = np.ones(found.n_channels, bool)
    kept[found.groups[1].channels[:2]] = False
    assert Plan(kept).keeps(found).tolist() == [3, 3, 1]
    assert Plan(kept).outputs(found) == {"1": [2, 3, 4]}
