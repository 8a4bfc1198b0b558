"""Everything a user may set, checked at the door: a YAML, `key=value` on top of it, all errors at once."""

from yolo_slim.config.compress import Step
from yolo_slim.config.experiment import Complete, Config, section
from yolo_slim.config.pruning import RECOVERIES, SCORING, Prune, Search, Target
from yolo_slim.config.reading import check, read_config, words
from yolo_slim.config.results import Latency, Sweep
from yolo_slim.config.training import Distill, Finetune, Match, Recover, SparseTrain

__all__ = [
    "RECOVERIES",
    "SCORING",
    "Complete",
    "Config",
    "Distill",
    "Finetune",
    "Latency",
    "Match",
    "Prune",
    "Recover",
    "Search",
    "SparseTrain",
    "Step",
    "Sweep",
    "Target",
    "check",
    "read_config",
    "section",
    "words",
]
