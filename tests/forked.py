"""The command line in a process of its own that starts at once: forked from one in which all is imported already.

It is a process like any other: signals reach it alone, and it ends with the exit code of the command line.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

IMPORTED = ["yolo_slim.stages.run", "torch._dynamo", "torchvision"]  # six seconds of each process
os.environ.setdefault("YOLO_OFFLINE", "true")  # before the first start: the server inherits it


def _command_line(words: list[str], folder: Path, log: Path) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(out, stream)
    sys.stdout.reconfigure(line_buffering=True)
    os.chdir(folder)
    import torch

    from yolo_slim.cli import main

    torch.set_num_threads(1)
    sys.exit(main(words))


def start(words: list[str], folder: Path, log: Path) -> multiprocessing.process.BaseProcess:
    """`yolo-slim` and these words, working in `folder`; what it says goes to `log`."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(IMPORTED)
    log.touch()
    process = server.Process(target=_command_line, args=(words, folder, log))
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the server when it comes up, with the first of these
    try:
        process.start()
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
    return process
