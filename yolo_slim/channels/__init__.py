"""Channels as variables: which are one and the same, which may go, and how to take them out.

Shape letters, here and everywhere: B batch, C channels, H height, W width.
"""

from yolo_slim.channels.absorb import absorb, absorb_missing, flattened, input_means, missing_means, silenced
from yolo_slim.channels.blocks import drop, emptiable, replay, survivors
from yolo_slim.channels.constraints import Constraints
from yolo_slim.channels.costs import Budget, Costs
from yolo_slim.channels.groups import Block, Conv, Group, Norm, Trace
from yolo_slim.channels.inputs import hw_of, image_channels, small_image
from yolo_slim.channels.layer_table import LayerTable, fit_layers
from yolo_slim.channels.meter import Meter
from yolo_slim.channels.plan import Plan
from yolo_slim.channels.reconstruct import reconstruct
from yolo_slim.channels.rounds import SCHEDULES, Start
from yolo_slim.channels.select import Selection, select
from yolo_slim.channels.sensitivity import Curve
from yolo_slim.channels.surgery import cut, masked, relative_difference, silent, voices, widened
from yolo_slim.channels.trace import trace

__all__ = [
    "SCHEDULES",
    "Block",
    "Budget",
    "Constraints",
    "Conv",
    "Costs",
    "Curve",
    "Group",
    "LayerTable",
    "Meter",
    "Norm",
    "Plan",
    "Selection",
    "Start",
    "Trace",
    "absorb",
    "absorb_missing",
    "cut",
    "drop",
    "emptiable",
    "fit_layers",
    "flattened",
    "hw_of",
    "image_channels",
    "input_means",
    "masked",
    "missing_means",
    "reconstruct",
    "relative_difference",
    "replay",
    "select",
    "silenced",
    "silent",
    "small_image",
    "survivors",
    "trace",
    "voices",
    "widened",
]
