"""One thread, no network: set before Ultralytics is imported. Long files first, so that no process ends alone."""

import gc
import os
from types import SimpleNamespace

import pytest

os.environ.setdefault("YOLO_OFFLINE", "true")
# Threads that wait for work spin; beside other tests that takes the cores from those that have some.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

LONG = ("test_sweep", "test_kill", "test_docs", "test_rounds", "test_pipeline")


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run: the process that hands them out to others imports nothing of this, which takes seconds."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    gc.disable()  # until all is imported
    import torch
    from ultralytics.engine import trainer

    from yolo_slim.measure import latency
    from yolo_slim.pruning import refine
    from yolo_slim.timing import quiet
    from yolo_slim.training import folder

    torch.set_num_threads(1)
    # Beside other tests no machine is quiet.
    quiet.PAUSE = quiet.RETAKES = 0
    latency.SETTLE = 0
    folder.PLOTS = False  # they take ten times as long as such a training; tests/test_trackers.py has them
    # Channels are scored once by default, which takes a third of the time; tests/test_search.py has it as it is.
    refine.TIMES, refine.SHIPPED = 1, refine.TIMES
    # Ultralytics collects garbage five times a training, which takes longer than these do: Python does it anyway.
    trainer.gc = SimpleNamespace(collect=lambda: 0)


def pytest_collection_modifyitems(items: list) -> None:
    """Files that start processes of their own go first."""
    items.sort(key=lambda item: not item.path.stem.startswith(LONG))


def pytest_collection_finish() -> None:
    """What is there by now stays, and no collection looks at it; others come seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    gc.enable()
