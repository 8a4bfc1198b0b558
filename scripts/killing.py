"""What `kill.py` needs of processes, of a place to run commands in, and of what may not be found there."""

from __future__ import annotations

import atexit
import csv
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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

# ---------------------------------------------------------------------------------------------------------------------
# Processes: forked off this one, in which all is imported and nothing has run


def preload() -> None:
    """Import what commands need: seconds of each."""
    import onnx
    import onnxruntime
    import torch
    import torch._dynamo
    import torchvision
    import ultralytics.engine.exporter

    from yolo_slim.stages import inspect, run, sensitivity, sweep

    assert all((onnx, onnxruntime, torchvision, ultralytics, inspect, run, sensitivity, sweep))
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
        atexit._run_exitfuncs()  # as a process that was not forked does: multiprocessing deletes its folder then
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

    def start(self, words: list[str]) -> int:
        """A command, as typed in there; its pid."""

        def work() -> int:
            os.chdir(self.folder)
            self.temp.mkdir(exist_ok=True)
            os.environ["TMPDIR"], tempfile.tempdir = str(self.temp), None
            from yolo_slim.cli import main

            print(f"\n$ yolo-slim {' '.join(words)}", flush=True)
            return main(words)

        return fork(work, self.log)

    def through(self, words: list[str], patience: float = PATIENCE) -> int | None:
        """A command to its end: its exit code; None: it had none, and was ended."""
        code = ended(pid := self.start(words), patience)
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return code

    @property
    def said(self) -> str:
        """What commands have said last."""
        return self.log.read_text(errors="replace")[-3000:]

    def copy(self, folder: Path) -> Place:
        """The same elsewhere: nothing in it tells where it is."""
        shutil.copytree(self.folder, folder, ignore=_sockets)
        return Place(folder)


def _sockets(folder: str, names: list[str]) -> list[str]:
    """Of loaders that were killed: they can be removed, and not copied."""
    return [name for name in names if (Path(folder) / name).is_socket()]


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
            elif path.suffix in (".svg", ".html") and not path.read_text().rstrip().endswith(f"</{path.suffix[1:]}>"):
                yield f"{path.relative_to(folder)} has no end"
            if path.name in (record.FILE, "run.json") and path.stat().st_size == 0:
                yield f"{path.relative_to(folder)} is empty"
            if path.name == record.FILE and record.stated(path.parent) is None:
                yield f"{path.relative_to(folder)} is damaged"
        except Exception as e:
            yield f"{path.relative_to(folder)}: {type(e).__name__}: {e}"


def hidden(path: Path) -> bool:
    """Whether a name says that it is of no account: a temporary file, or what one is made in."""
    return any(part.startswith((".", "tmp", "new-")) for part in path.parts)


def left(place: Place) -> list[str]:
    """What a command that has ended should have deleted."""
    found = [p for p in place.runs.rglob("*") if hidden(p.relative_to(place.runs))]
    return [f"left behind: {p.relative_to(place.folder)}" for p in [*found, *place.temp.glob("*")]]


COSTS = ("params", "macs", "flops")
STEADY = (*COSTS, "base", "split")
"""Of trainings: one that goes on from an epoch has not the same weights."""
NOISY = ("latency_ms", "seconds", "file_mb", "weights", "process", "before_ms", "after_ms", "version")


def results(place: Place, *, trains: bool, cuts: bool = False) -> dict[str, Any]:
    """What every finished stage has come to, without what no two runs have in common; of trainings, the epochs.

    `cuts`: other weights are cut to other widths, so costs are left out as well.
    """
    from yolo_slim import record

    found: dict[str, Any] = {}
    for path in sorted((place.runs / "slim").rglob(record.FILE)):
        name, done = str(path.parent.relative_to(place.runs)), record.read(path.parent)
        found[name] = done and _told(done.metrics, _steady(trains, cuts))
        log = path.parent / "train" / "results.csv"
        if log.is_file():
            with log.open() as file:
                found[f"{name} epochs"] = [row["epoch"].strip() for row in csv.DictReader(file)]
    return found


def _steady(trains: bool, cuts: bool) -> tuple[str, ...] | None:
    """The numbers that are the same; None: all are."""
    return tuple(key for key in STEADY if not (cuts and key in COSTS)) if trains else None


def _told(content: Any, steady: tuple[str, ...] | None) -> Any:
    if isinstance(content, list):
        return [_told(entry, steady) for entry in content]
    if isinstance(content, dict):
        kept = {k: v for k, v in content.items() if k not in NOISY}
        if steady is not None:
            kept = {k: v for k, v in kept.items() if k in steady or isinstance(v, list)}
        return {k: _told(v, steady) for k, v in kept.items()}
    return content
