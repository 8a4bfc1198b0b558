"""The console and the file system as they are: one clear line each, and nothing left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import PX, contents, refused, run, run_alone
from torch import nn

from yolo_slim import checkpoint, record
from yolo_slim.errors import SlimError, why
from yolo_slim.stages import STAGES

pytest_plugins = ["tiny"]

MAIN = "import sys; from yolo_slim.cli import main; sys.exit(main())"


def started(*words: str, code: str = MAIN, **how: object) -> subprocess.Popen:
    """The command line, or other Python, in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", code, *words], text=True, **how)


# ---------------------------------------------------------------------------------------------------------------------
# Streams


@pytest.mark.parametrize(
    "words",
    [["--help"], ["prune", "--help"], ["--version"], ["inspect", "model=yolov5n.yaml", "imgsz=64"]],
    ids=" ".join,
)
def test_a_reader_that_has_seen_enough_is_no_error(words: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    process = started(*words, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert process.communicate()[1] == ""
    assert process.returncode == 141


def test_nobody_reads_what_was_wrong(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    process = started("prun", stdout=subprocess.PIPE, stderr=writes)
    os.close(writes)
    assert process.communicate()[0] == ""
    assert process.returncode == 2


@pytest.mark.parametrize(("words", "code"), [("--help", 0), ("prun", 2)])
def test_closed_streams_are_no_error(words: str, code: int) -> None:
    assert subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {words} >&- 2>&-', sys.executable, MAIN]).returncode == code


def test_a_file_opened_after_a_stream_was_closed_gets_nothing_printed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from yolo_slim import terminal; terminal.prepare(); "
        f"file = open({str(tmp_path / 'mine')!r}, 'w'); print('heard'); os.write(1, b'heard'); file.flush()"
    )
    assert subprocess.run(["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code]).returncode == 0
    assert (tmp_path / "mine").read_text() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_full_disk_behind_a_stream_is_told() -> None:
    with open("/dev/full", "w") as full:
        process = started("--help", stdout=full, stderr=subprocess.PIPE)
        said = process.communicate()[1]
    assert process.returncode == 2
    assert said.startswith("yolo-slim: ") and "free some space" in said
    assert "Traceback" not in said


CONSOLES = [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LANG": "C"}]


@pytest.mark.parametrize("console", CONSOLES, ids=str)
def test_a_console_without_our_characters(console: dict[str, str]) -> None:
    words = [[stage, "--help"] for stage in STAGES] + [["--help"]]
    code = f"from yolo_slim.cli import main; codes = [main(words) for words in {words}]; main(['prun→±×', 'a=é'])"
    process = started(
        code=code, env={**os.environ, **console}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="latin-1"
    )
    out, err = process.communicate()
    assert (process.returncode, err.count("\n")) == (0, 1), err
    assert all(f"yolo-slim {stage}" in out for stage in STAGES)
    assert "unknown stage 'prun" in err


def test_characters_that_a_console_lacks_have_others_in_their_place() -> None:
    code = "from yolo_slim import terminal; terminal.prepare(); print('a → b ± 3 × 4…, 实é')"
    answer = started(code=code, env={**os.environ, "PYTHONIOENCODING": "ascii"}, stdout=subprocess.PIPE)
    assert answer.communicate()[0] == "a -> b +- 3 x 4..., ??\n"


def test_stages_on_a_console_of_windows(original: Path, data: Path, tmp_path: Path) -> None:
    """Code page 1252: no arrows, no box characters, but é and ×."""
    words = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", "name=é"]
    cut = [*words, "prune.ratio=0.3", "prune.criterion=l1", "prune.calib_images=4", "report.latency_runs=1"]
    commands = [["prune", *cut, "--dry-run"], ["prune", *cut], ["report", *cut], ["inspect", *words], ["init", *words]]
    code = f"from yolo_slim.cli import main; print([main(words) for words in {commands!r}])"
    process = started(
        code=f"import sys; {code}",
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="cp1252",
    )
    out, err = process.communicate()
    assert out.splitlines()[-1] == "[0, 0, 0, 0, 0]", err
    assert "é" in out and "->" in out and "Error" not in err
    assert "é" in (tmp_path / "runs" / "é" / "log.txt").read_text(encoding="utf-8")


def test_a_whole_stage_on_a_console_of_ascii(
    original: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    words = [f"model={original}", f"data={data}", f"imgsz={PX}", "prune.ratio=0.3", "prune.calib_images=4", "name=é"]
    answer = run_alone("prune", *words, cwd=tmp_path)
    assert answer.code == 0, answer.err
    assert (answer.out + answer.err).isascii()
    assert "Error" not in answer.err
    assert (tmp_path / "runs" / "é" / "pruned" / "stage.json").is_file()


# ---------------------------------------------------------------------------------------------------------------------
# Files that are none, and places where nothing can be written


@pytest.mark.parametrize("key", ["model", "data"])
@pytest.mark.parametrize("name", ["pipe.yaml", "pipe.pt", "device"])
def test_a_pipe_or_a_device_is_not_waited_for(original: Path, tmp_path: Path, key: str, name: str) -> None:
    os.mkfifo(path := tmp_path / name) if "pipe" in name else (path := tmp_path / name).symlink_to("/dev/null")
    words = {"model": original, "data": "x.yaml", key: path}
    answer = run("prune", *(f"{k}={v}" for k, v in words.items()), "prune.ratio=0.3", f"runs={tmp_path / 'runs'}")
    refused(answer, path, f"what {key} names", "save it as a file first")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EACCES, "no permission"),
        (errno.EPERM, "not permitted"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "share of the disk"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.EIO, "the disk reports an error"),
        (errno.EMFILE, "too many files are open"),
    ],
)
def test_each_reason_has_its_advice(
    number: int, says: str, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*anything: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    assert {"free some space" in why(OSError(number, "x"))} == {number in (errno.ENOSPC, errno.EDQUOT)}
    monkeypatch.setattr(Path, "mkdir", fails)
    refused(run("prune", f"model={original}", f"imgsz={PX}", "prune.ratio=0.3", f"runs={tmp_path / 'runs'}"), says)
    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(SlimError, match=says):
        record.write_text(tmp_path / "a.json", "x")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_file_in_the_place_of_a_folder_is_named(original: Path, tmp_path: Path, below: str) -> None:
    (file := tmp_path / "taken").write_text("mine")
    answer = run("prune", f"model={original}", f"imgsz={PX}", "prune.ratio=0.3", f"runs={file / below}")
    refused(answer, f"{file} is a file where a folder is wanted")
    assert file.read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root alone can become somebody else")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (folder := tmp_path / "theirs").mkdir(mode=0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(SlimError, match=r"a\.json: no permission; let this user"):
            record.write_text(folder / "a.json", "x")
    finally:
        os.seteuid(0)


def test_apostrophes_spaces_and_signs_in_every_path(detector: nn.Module, data: Path, tmp_path: Path) -> None:
    (here := tmp_path / "it's: 50 % ünï #1").mkdir()
    weights = checkpoint.save(detector, here / "mine: it's #2.pt")
    words = [f"model={weights}", f"data={data}", f"imgsz={PX}", f"runs={here / 'it is #3'}", "prune.ratio=0.3"]
    tune = [
        "finetune.epochs=1",
        "finetune.train={batch: 4}",
        "finetune.distill.features=mimic",
        "report.latency_runs=1",
    ]
    for stage in ("prune", "finetune", "report"):
        answer = run(stage, *words, *tune, "prune.calib_images=4", "name=20240101")
        assert answer.code == 0, answer.err
    made = contents(here / "it is #3" / "20240101").keys()
    assert {"pruned/stage.json", "finetuned/slim.pt", "report/report.html"} <= made
    assert {path.name for path in tmp_path.iterdir()} == {here.name}


def test_ctrl_c_while_python_ends_shows_no_traceback(tmp_path: Path) -> None:
    late = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT)"  # done last
    answer = run_alone("--version", cwd=tmp_path, code=f"{late}; from yolo_slim.cli import main; sys.exit(main())")
    assert answer.out.startswith("yolo-slim ") and answer.err == "", answer
