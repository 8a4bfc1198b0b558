"""Darknet's detectors: a `.cfg` that describes them, and `.weights` beside it.

    cfg         the text: sections, keys, lines
    keys        which keys a section may have
    readers     one section after another, checked against those before it
    net         a cfg to what it describes, within bounds
    plan        what it describes
    build       that as modules
    modules     the few modules that are Darknet's own; a pickled detector names these
    weights     the numbers
    loss        YOLOv3's
    reading     from the disk
    saving      back to it
    restoring   from a pickle

Each refuses with a SlimError that begins with a verb: its subject is the file, which `load` puts before it.
"""

from yolo_slim.formats.darknet.loss import DarknetLoss
from yolo_slim.formats.darknet.modules import DarknetHead, DarknetModel
from yolo_slim.formats.darknet.reading import load, reads
from yolo_slim.formats.darknet.restoring import restored
from yolo_slim.formats.darknet.saving import card, save

__all__ = ["DarknetHead", "DarknetLoss", "DarknetModel", "card", "load", "reads", "restored", "save"]
