"""Kill every stage at random moments, hundreds of times, and look for a state that is wrong.

    python scripts/kill.py --kills 200 --seed 0

Each trial puts a run of a tiny detector (64 px, a dozen images) as it was before a command, or as another setting left
it, starts the command and kills it with SIGKILL: the process alone, all that it has started as well, or one of its
workers. After each kill
- every file under its final name must be whole, and every record either true or taken for none,
- now and then a command that reads what the killed one writes must do so, or refuse with exit code 2.
Then the same command must come to the same results as one that was never killed, and leave nothing else behind: no
temporary file, no lock, no process. Trials are kept in --out; with the same --out the script goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["YOLO_OFFLINE"] = "true"  # before Ultralytics is imported: it looks for a connection then
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # we fork

PX, PATIENCE = 64, 240.0
TINY = """\
nc: 4
backbone:
  - [-1, 1, Conv, [16, 6, 2, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, C3, [32]]
  - [-1, 1, Conv, [48, 3, 2]]
  - [-1, 1, SPPF, [48, 5]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 2], 1, Concat, [1]]
  - [-1, 1, C3, [32, False]]
  - [[7, 4], 1, Detect, [nc]]
"""

COMMON = [
    *("data=shapes/data.yaml", f"imgsz={PX}", "prune.ratio=0.3", "prune.round_to=4", "prune.min_channels=4"),
    *("prune.criterion=l1", "report.latency_runs=1", "export.formats=[onnx,torchscript]", "export.images=1"),
    *("bench.runtimes=[torch,onnxruntime]", "bench.runs=3", "sweep.criteria=[l1,random]", "sweep.flops=[0.8,0.6]"),
    *("prune.sensitivity.ratios=[0.3,0.6]", "prune.sensitivity.images=4", "sparse_train.epochs=0"),
    *(f"{stage}.train={{workers: 0, batch: 4, nbs: 4, optimizer: SGD}}" for stage in ("original", "sparse_train")),
    *("finetune.train={workers: 0, batch: 4, nbs: 4, optimizer: SGD}", "finetune.epochs=3", "original.epochs=3"),
]
"""Settings of every command."""


@dataclass(frozen=True)
class Case:
    """A command that is killed."""

    command: str
    words: tuple[str, ...] = ()  # beside COMMON
    otherwise: tuple[str, ...] = ()  # settings with which it may have been done before
    before: tuple[str, ...] = ()  # commands that come before it
    reader: str = "report"  # a command that reads what it writes
    trains: bool = False  # a training that was killed goes on from an epoch: not to the same numbers


SPARSE = ("sparse_train.epochs=3",)
CASES = {
    "original": Case("prune", ("model=tiny.yaml",), ("seed=1",), reader="finetune", trains=True),
    "sparse-train": Case("sparse-train", (*SPARSE, "sparse_train.mode=uniform"), ("seed=1",), (), "prune", True),
    "landing": Case("sparse-train", SPARSE, ("prune.ratio=0.4",), (), "prune", True),
    "sensitivity": Case("sensitivity", (), ("prune.sensitivity.images=3",), (), "prune"),
    "prune": Case("prune", (), ("prune.ratio=0.5",), (), "finetune"),
    "rounds": Case(
        "prune", ("prune.iterations={rounds: 2, epochs: 2}",), ("prune.iterations=null",), (), "finetune", True
    ),
    "finetune": Case("finetune", (), ("seed=1",), ("prune",), "export", True),
    "export": Case("export", (), ("export.formats=[onnx]", "export.int8=[onnx]"), ("prune",)),
    "bench": Case("bench", (), ("bench.runs=4",), ("prune",)),
    "report": Case("report", (), ("report.latency_runs=2",), ("prune", "finetune"), "export"),
    "sweep": Case("sweep", (), ("sweep.flops=[0.7]",)),
    "run": Case(
        "run",
        ("sparse_train.epochs=1", "sparse_train.mode=uniform", "finetune.epochs=1", "export.formats=[torchscript]"),
        ("seed=1",),
        (),
        "export",
        True,
    ),
}
HOW = {"alone": 3, "group": 2, "worker": 2}
"""What is killed, and how often."""

# ---------------------------------------------------------------------------------------------------------------------
# Processes: forked off this one, in which all is imported and nothing has run


def preload() -> None:
    """Import what commands need: seconds of each."""
    import matplotlib.pyplot
    import onnx
    import onnxruntime
    import torch
    import torch._dynamo
    import torchvision
    import ultralytics.engine.exporter

    from yolo_slim.stages import inspect, run, sensitivity, sweep

    assert all((matplotlib, onnx, onnxruntime, torchvision, ultralytics, inspect, run, sensitivity, sweep))
    torch.set_num_threads(1)


def fork(work: Callable[[], int | None], log: Path) -> int:
    """Do something in a process and a session of its own; its pid."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(out, stream)
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, patience: float) -> int | None:
    """The exit code of a process, as shells tell it; None: it goes on."""
    until = time.monotonic() + patience
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.002)


def session(pid: int) -> list[int]:
    """Living processes that this one has started, directly or not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == pid and state != "Z" and int(stat.parent.name) != pid:
            found.append(int(stat.parent.name))
    return found


class Place:
    """A working directory with a tiny detector, a data set, and a run in runs/slim."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs, self.temp, self.log = (folder, folder / "runs", folder / "tmp", folder / "log.txt")

    def start(self, case: Case, command: str | None = None, *more: str) -> int:
        """A command, as typed in there."""
        model = [] if any(word.startswith("model=") for word in case.words) else ["model=tiny.pt"]
        words = [command or case.command, *model, *COMMON, *case.words, *more]

        def work() -> int:
            os.chdir(self.folder)
            self.temp.mkdir(exist_ok=True)
            os.environ["TMPDIR"], tempfile.tempdir = str(self.temp), None
            from yolo_slim.cli import main

            print(f"\n$ yolo-slim {' '.join(words)}", flush=True)
            return main(words)

        return fork(work, self.log)

    def through(self, case: Case, command: str | None = None, *more: str) -> None:
        """A command to its end."""
        if code := ended(pid := self.start(case, command, *more), PATIENCE):
            raise SystemExit(f"{command or case.command} ended with {code}: {self.log.read_text()[-3000:]}")
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            raise SystemExit(f"{command or case.command} did not end: {self.log.read_text()[-3000:]}")

    def copy(self, folder: Path) -> Place:
        """The same elsewhere: nothing in it tells where it is."""
        shutil.copytree(self.folder, folder)
        return Place(folder)


def experiment(folder: Path) -> Place:
    """A place in which no command has run yet."""

    def build() -> None:
        import torch
        from make_shapes import draw

        from yolo_slim import checkpoint

        os.chdir(folder)
        torch.manual_seed(0)
        Path("tiny.yaml").write_text(TINY)
        checkpoint.save(checkpoint.build("tiny.yaml"), "tiny.pt")
        described = draw(Path("shapes"), train=8, val=4, test=0, imgsz=PX, seed=0)
        if described.name != "data.yaml":
            described.rename(described.with_name("data.yaml"))

    folder.mkdir(parents=True)
    if ended(fork(build, folder / "log.txt"), PATIENCE) != 0:
        raise SystemExit((folder / "log.txt").read_text())
    return Place(folder)


# ---------------------------------------------------------------------------------------------------------------------
# What may not be


def halves(folder: Path) -> Iterator[str]:
    """Files under a final name that are not whole, and records that say what is not so."""
    import numpy as np
    import onnx

    from yolo_slim import load, record

    def loads(path: Path) -> object:
        if path.suffix == ".torchscript":
            return zipfile.ZipFile(path).testzip()
        return {".pt": load, ".onnx": onnx.load, ".npz": np.load}[path.suffix](path)

    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not hidden(p.relative_to(folder))):
        try:
            if path.suffix in (".pt", ".onnx", ".npz", ".torchscript"):
                loads(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif (path.suffix == ".png" and b"IEND" not in path.read_bytes()[-12:]) or (
                path.suffix == ".html" and not path.read_text().rstrip().endswith("</html>")
            ):
                yield f"{path.relative_to(folder)} has no end"
            if path.name in (record.FILE, "run.json") and path.stat().st_size == 0:
                yield f"{path.relative_to(folder)} is empty"
            if path.name == record.FILE and record.stated(path.parent) is None:
                yield f"{path.relative_to(folder)} is damaged"
        except Exception as e:
            yield f"{path.relative_to(folder)}: {type(e).__name__}: {e}"


def hidden(path: Path) -> bool:
    """Whether a name says that it is of no account: a temporary file, or what one is made in."""
    return any(part.startswith((".", "tmp")) for part in path.parts)


def left(place: Place) -> list[str]:
    """What a command that has ended should have deleted."""
    found = [p for p in place.runs.rglob("*") if hidden(p.relative_to(place.runs))]
    return [f"left behind: {p.relative_to(place.folder)}" for p in [*found, *place.temp.glob("*")]]


STEADY = ("params", "macs", "flops", "base", "split")
NOISY = ("latency_ms", "seconds", "file_mb", "weights", "process", "before_ms", "after_ms", "version")


def results(place: Place, case: Case) -> dict[str, Any]:
    """What every finished stage has come to, without what no two runs have in common; of trainings, the epochs."""
    from yolo_slim import record

    found: dict[str, Any] = {}
    for path in sorted((place.runs / "slim").rglob(record.FILE)):
        name, done = str(path.parent.relative_to(place.runs)), record.read(path.parent)
        found[name] = done and _told(done.metrics, case)
        if case.command == "bench" or done is None:
            continue
        log = path.parent / "train" / "results.csv"
        if log.is_file():
            with log.open() as file:
                found[f"{name} epochs"] = [row["epoch"].strip() for row in csv.DictReader(file)]
    return found


def _told(content: Any, case: Case) -> Any:
    if isinstance(content, list):
        return [_told(entry, case) for entry in content]
    if isinstance(content, dict):
        kept = (lambda k, v: k in STEADY or isinstance(v, list)) if case.trains else (lambda k, v: k not in NOISY)
        return {k: _told(v, case) for k, v in content.items() if kept(k, v)}
    return content
