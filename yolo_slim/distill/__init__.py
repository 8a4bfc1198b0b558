"""What a student pays for differing from its teacher: one idea a file, one dict of names.

A loss is a module made from a `Pair`, with its options as keyword arguments, and called with two views of a batch and
the scene: a scalar, a mean over images, which its `weight` brings to the size of a detector's own losses. What it
trains besides the student (adapters, generators) it holds itself. One that says `maps_alone` does not look at what a
teacher predicts: where all do, the teacher's head is not run. One that says `every_block` learns nothing on the way
from map to map: where all that look at maps say so, and no layers are named, they are given those of every block, not
of Detect's inputs alone. To add your own, put it into `FEATURES` or `OUTPUTS`.

That of `channels` was chosen among 1, 3 and 10 on BCCD's validation images. The other weights are starting points, not
tuned: at them, the gradient of each loss on a YOLOv5n that was cut to half of its FLOPs is of the size of that of
Ultralytics' own losses, or somewhat smaller.

Letters: B images, C channels, H height, W width, A positions, K classes, N true boxes.
"""

from collections import ChainMap

from torch import nn

from yolo_slim.distill.attention import Attention
from yolo_slim.distill.background import Background
from yolo_slim.distill.binary import Binary
from yolo_slim.distill.bounded import Bounded
from yolo_slim.distill.box import Box
from yolo_slim.distill.channels import Channels
from yolo_slim.distill.cwd import Cwd
from yolo_slim.distill.darkrank import DarkRank
from yolo_slim.distill.fgfi import Fgfi
from yolo_slim.distill.fsp import Fsp
from yolo_slim.distill.hint import Hint
from yolo_slim.distill.ld import Ld
from yolo_slim.distill.mgd import Mgd
from yolo_slim.distill.pkd import Pkd
from yolo_slim.distill.region import Region
from yolo_slim.distill.scored import Scored
from yolo_slim.distill.view import Pair, Scene, View

FEATURES: dict[str, type[nn.Module]] = {
    "channels": Channels,
    "mimic": Hint,
    "region": Region,
    "fgfi": Fgfi,
    "scored": Scored,
    "cwd": Cwd,
    "pkd": Pkd,
    "mgd": Mgd,
    "attention": Attention,
    "fsp": Fsp,
}
"""Of maps."""

OUTPUTS: dict[str, type[nn.Module]] = {
    "binary": Binary,
    "box": Box,
    "ld": Ld,
    "bounded": Bounded,
    "background": Background,
    "darkrank": DarkRank,
}
"""Of predictions, or of objects."""

LOSSES: ChainMap[str, type[nn.Module]] = ChainMap(FEATURES, OUTPUTS)
"""Both, as they are when they are asked for."""

__all__ = ["FEATURES", "LOSSES", "OUTPUTS", "Pair", "Scene", "View"]
