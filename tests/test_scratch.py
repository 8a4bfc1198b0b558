"""Being ended, and running out: temporary folders go, and one line says how to go on."""

from __future__ import annotations

import ast
import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import refused, run

from yolo_slim import cli
from yolo_slim.config import Config
from yolo_slim.errors import REASONS, SlimError
from yolo_slim.scratch import HELD, NEW, Scratch, temporary
from yolo_slim.stages import STAGES

WAITS = """
import sys, time
from yolo_slim import cli
from yolo_slim.scratch import Scratch
from yolo_slim.stages import STAGES
def stage(config):
    with Scratch() as folder:
        open(folder + "/big", "w").write("x")
        print("there", flush=True)
        time.sleep(60)
STAGES["prune"] = stage
sys.exit(cli.main(["prune", "model=a.pt"]))
"""


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen]]:
    """Starts a stage that waits, with a temporary folder in `tmp_path`."""
    begun = []

    def start() -> subprocess.Popen:
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        process = subprocess.Popen(
            [sys.executable, "-c", WAITS], text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        begun.append(process)
        assert process.stdout.readline() == "there\n"
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended"), (signal.SIGHUP, 129, "ended")],
)
def test_who_is_ended_puts_all_away(
    waiting: Callable[[], subprocess.Popen], tmp_path: Path, number: int, code: int, word: str
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("whoever started the tests has them ignore it (nohup)")
    process = waiting()
    assert len(list(tmp_path.glob(f"{HELD}*/big"))) == 1
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (code, "")
    assert err == f"\nyolo-slim: {word}; the same command goes on from here\n"
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_leaves_goes_with_the_next(waiting: Callable[[], subprocess.Popen], tmp_path: Path) -> None:
    killed, alive = waiting(), waiting()
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.iterdir())) == 2
    with Scratch(tmp_path) as mine:
        left = set(map(str, tmp_path.iterdir()))
        assert mine in left and len(left) == 2  # and that of the living
    alive.kill()
    alive.wait()
    Scratch(tmp_path).cleanup()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_not_held_yet_is_left_for_a_while(tmp_path: Path) -> None:
    (new := tmp_path / f"{NEW}a").mkdir()
    (old := tmp_path / f"{NEW}b").mkdir()
    os.utime(old, (0, 0))
    Scratch(tmp_path).cleanup()
    assert list(tmp_path.iterdir()) == [new]


def test_a_link_under_such_a_name_is_not_followed(tmp_path: Path) -> None:
    (kept := tmp_path / "kept").mkdir()
    (kept / "a").touch()
    (tmp_path / f"{HELD}a").symlink_to(kept)
    Scratch(tmp_path).cleanup()
    assert (kept / "a").exists()


def test_a_place_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SlimError, match=r"cannot make a temporary folder in .*file where a folder is wanted"):
        Scratch(tmp_path / "file")


def test_temporary_folders_are_made_in_one_way() -> None:
    others = []
    for path in Path(cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("TemporaryDirectory", "mkdtemp", "NamedTemporaryFile"):
                others.append(path.name)
    assert others == ["scratch.py"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        pytest.param(MemoryError(), "no memory is left", id="Python's"),
        pytest.param(RuntimeError("DefaultCPUAllocator: can't allocate memory"), "no memory", id="PyTorch's"),
        pytest.param(OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: No space left", id="a full disk"),
        pytest.param(PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: no permission", id="no permission"),
    ],
)
def test_what_happens_to_anybody_is_told_in_a_line(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(config: Config) -> None:
        raise error

    monkeypatch.setitem(STAGES, "prune", fails)
    refused(run("prune", "model=a.pt"), says)


@pytest.mark.parametrize("error", [RuntimeError("shape"), OSError("odd"), FileNotFoundError(errno.ENOENT, "none", "x")])
def test_a_mistake_of_ours_still_shows(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(config: Config) -> None:
        raise error

    assert getattr(error, "errno", None) not in REASONS
    monkeypatch.setitem(STAGES, "prune", fails)
    with pytest.raises(type(error)):
        run("prune", "model=a.pt")


def test_temporary_files_are_gone_at_the_end_or_with_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "others").mkdir()
    killed = tmp_path / f"{HELD}killed"
    (killed / "pymp-1").mkdir(parents=True)
    with Scratch() as alive:
        with temporary():
            inside = Path(tempfile.mkdtemp())
            assert inside.parent.parent == tmp_path and os.environ["TMPDIR"] == str(inside.parent)
            assert not killed.exists()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["others", Path(alive).name]
    assert os.environ["TMPDIR"] == str(tmp_path) == tempfile.gettempdir()


SERVES = """
import multiprocessing, os, tempfile
from yolo_slim.scratch import temporary
if __name__ == "__main__":
    with temporary():
        manager = multiprocessing.Manager()
        kept = manager.dict(a=1)
    print(kept)
"""


def test_what_multiprocessing_wants_to_the_end_is_there_until_then(tmp_path: Path) -> None:
    (tmp_path / "serves.py").write_text(SERVES)
    with tempfile.TemporaryDirectory() as place:  # a short name: it becomes part of a socket's
        env = {**os.environ, "TMPDIR": place}
        done = subprocess.run([sys.executable, "serves.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("{'a': 1}\n", "")
        assert list(Path(place).iterdir()) == []
