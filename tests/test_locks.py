"""One command at a time in a run folder, whatever becomes of those before it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import PX, contents, refused, run

from yolo_slim import record
from yolo_slim.errors import SlimError
from yolo_slim.runs import locks

pytest_plugins = ["tiny"]

HOLD = """
import sys, time
from pathlib import Path
from yolo_slim.runs import locks
with locks.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, code: str = HOLD) -> Iterator[subprocess.Popen]:
    """Another process that holds a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture(scope="module")
def in_use(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder of runs in which another process holds `slim`, and the number of that process."""
    runs = tmp_path_factory.mktemp("in_use") / "runs"
    with holder(runs / "slim") as process:
        yield runs, process.pid


@pytest.mark.parametrize("stage", ["run", "prune", "sparse-train", "finetune", "export", "bench", "report", "sweep"])
def test_a_run_that_is_in_use_is_refused_with_who_uses_it(stage: str, original: Path, in_use: tuple[Path, int]) -> None:
    runs, process = in_use
    before = contents(runs).keys()
    answer = run(stage, f"model={original}", f"imgsz={PX}", f"runs={runs}", "prune.ratio=0.3")
    refused(answer, runs / "slim", "is in use by process", process, "since 20", "name=")
    assert contents(runs).keys() == before
    assert contents(runs / "slim").keys() == {".lock"}


def test_beside_a_run_that_is_in_use_there_is_room(original: Path, in_use: tuple[Path, int]) -> None:
    runs, _ = in_use
    assert run("inspect", original, f"runs={runs}").code == 0, "looking disturbs nobody"
    assert run("prune", f"model={original}", f"imgsz={PX}", f"runs={runs}", "name=b", "prune.ratio=0.3").code == 0
    assert contents(runs / "slim").keys() == {".lock"}


def test_who_was_killed_holds_nothing(original: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with holder(runs / "slim") as process:
        process.kill()
        process.wait()
        assert (runs / "slim" / ".lock").exists()
        assert run("prune", f"model={original}", f"imgsz={PX}", f"runs={runs}", "prune.ratio=0.3").code == 0
    assert not (runs / "slim" / ".lock").exists()


def test_a_process_that_a_killed_one_has_started_does_not_hold_it(tmp_path: Path) -> None:
    """Data loaders are forked, and outlive their parent for a while."""
    forks = "import os\n    if not os.fork(): sys.stdin.read(), os._exit(0)\n    print"
    code = HOLD.replace("print", forks)
    with holder(tmp_path, code) as process:
        with pytest.raises(SlimError, match=f"by process {process.pid}"), locks.held(tmp_path):
            pass
        process.kill()
        process.wait()
        with locks.held(tmp_path) as first:
            assert first


def test_a_stage_within_another_waits_for_nobody(tmp_path: Path) -> None:
    with locks.held(tmp_path / "a") as first, locks.held(tmp_path / "a") as second:
        assert (first, second) == (True, False)
    assert list(tmp_path.iterdir()) == []


def test_another_thread_is_another_command(tmp_path: Path) -> None:
    told: list[str] = []

    def enter() -> None:
        try:
            with locks.held(tmp_path):
                told.append("entered")
        except SlimError as e:
            told.append(str(e))

    with locks.held(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(told) == 1 and "another thread" in told[0]


@pytest.mark.parametrize("said", ["", "[]", "{", '{"pid": 3}', "\x00" * 10])
def test_a_lock_that_does_not_say_who(tmp_path: Path, said: str) -> None:
    with holder(tmp_path):
        (tmp_path / ".lock").write_text(said)
        with pytest.raises(SlimError, match="in use by another process"), locks.held(tmp_path):
            pass


def test_one_waits_for_the_other(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        threading.Timer(0.3, process.stdin.close).start()
        with locks.held(tmp_path, wait=True) as first:
            assert first and process.wait() == 0


def test_it_says_who_holds_it(tmp_path: Path) -> None:
    with locks.held(tmp_path):
        said = json.loads((tmp_path / ".lock").read_text())
    assert said.keys() == {"pid", "host", "since", "command"} and said["pid"] == os.getpid()


# ---------------------------------------------------------------------------------------------------------------------
# What several write at once


WRITE_OFTEN = """
import sys
from pathlib import Path
from yolo_slim import record
for _ in range(150):
    record.write_text(Path(sys.argv[1]), sys.argv[2] * 20_000)
"""


def test_a_file_that_several_processes_write_is_always_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("a" * 20_000)
    writers = [subprocess.Popen([sys.executable, "-c", WRITE_OFTEN, str(path), letter]) for letter in "abc"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        assert len(text) == 20_000 and len(set(text)) == 1
        seen.add(text[0])
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(seen) > 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_runs_share_keeps_nothing_of_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / ".table.json.0a1b2c3d.part").write_text("half")
    with locks.shared(tmp_path):
        record.write_json(tmp_path / "table.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


# ---------------------------------------------------------------------------------------------------------------------
# What killed commands leave


def test_a_run_keeps_nothing_of_a_killed_command(tmp_path: Path) -> None:
    mine = ["notes.part", "export/slim.onnx", "pruned/tmpfile", "mine/.x.part", "finetuned/train/weights/last.pt"]
    left = ["export/tmp0a_bcdef/slim.pt", "pruned/.pruned.pt.part", "finetuned/train/weights/.last.part.pt"]
    left += ["report/.report.json.0a1b2c3d.part", ".run.json.0a1b2c3d.part"]
    for name in mine + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    locks.tidy(tmp_path)
    assert contents(tmp_path).keys() == set(mine)
    assert not (tmp_path / "export" / "tmp0a_bcdef").exists()
