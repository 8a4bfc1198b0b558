"""What a data set is: its YAML, its classes, its images and labels, read without running or fetching anything.

Whoever imports this room has Ultralytics read label caches as `caches` does, see `guarded`.
"""

from yolo_slim.data import guarded
from yolo_slim.data.facts import Split, dataset_info, labelled, split_facts, yaml_of
from yolo_slim.data.names import check_names, one_class
from yolo_slim.data.validator import LocalValidator

__all__ = [
    "LocalValidator",
    "Split",
    "check_names",
    "dataset_info",
    "guarded",
    "labelled",
    "one_class",
    "split_facts",
    "yaml_of",
]
