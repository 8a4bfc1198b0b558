"""The same code is the same sources: wherever they lie, however their lines end, whatever Python leaves beside them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import run_alone

import yolo_slim
from yolo_slim import record
from yolo_slim.config import Config
from yolo_slim.record import sum_of_sources
from yolo_slim.runs.stage import run_stage

PACKAGE = Path(yolo_slim.__file__).parent


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, without what Python has left in it."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__")))


def test_it_is_the_version_and_a_hash() -> None:
    assert re.fullmatch(rf"{re.escape(yolo_slim.__version__)}\+[0-9a-f]{{8}}", record.code())
    assert record.versions()["yolo-slim"] == record.code() == record.code()


def as_on_windows(package: Path) -> None:
    for file in package.rglob("*.py"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))


def compiled(package: Path) -> None:
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "cli.cpython-311.pyc").write_bytes(b"code")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda package: None, id="in another place"),
        pytest.param(as_on_windows, id="lines end otherwise"),
        pytest.param(compiled, id="compiled"),
        pytest.param(lambda package: (package / ".cli.py.swp").write_text("x"), id="open in an editor"),
        pytest.param(lambda package: (package / "cli.py").touch(), id="touched"),
    ],
)
def test_what_is_no_other_code(package: Path, change: Callable[[Path], object]) -> None:
    change(package)
    assert sum_of_sources(package) == sum_of_sources(PACKAGE)


def appended(name: str) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        with (package / name).open("a") as file:
            file.write("\n")

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(appended("cli.py"), id="a source"),
        pytest.param(appended("channels/surgery.py"), id="a source in a room"),
        pytest.param(lambda p: appended(next((p / "report/template").iterdir()).relative_to(p))(p), id="a template"),
        pytest.param(lambda package: (package / "new.py").touch(), id="one more"),
        pytest.param(lambda package: (package / "cli.py").unlink(), id="one fewer"),
        pytest.param(lambda package: (package / "cli.py").rename(package / "lci.py"), id="another name"),
    ],
)
def test_what_is_other_code(package: Path, change: Callable[[Path], object]) -> None:
    change(package)
    assert sum_of_sources(package) != sum_of_sources(PACKAGE)


def test_it_needs_no_torch(tmp_path: Path) -> None:
    code = "from yolo_slim import record; record.code(); print('torch' in sys.modules, record.code())"
    assert run_alone(cwd=tmp_path, code=code).out == f"False {record.code()}\n"


def test_a_stage_of_other_code_is_done_again_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, worked = Config(model="a.pt", imgsz=64, runs=str(tmp_path)), []

    def work(folder: Path) -> tuple:
        worked.append(1)
        (folder / "x.txt").write_text("x")
        return {"text": folder / "x.txt"}, {}, {}

    run_stage(config, "told", {}, [], work)
    assert record.read(config.folder / "told").versions["yolo-slim"] == record.code()
    run_stage(config, "told", {}, [], work)
    assert len(worked) == 1
    then = record.code()
    monkeypatch.setattr(record, "code", lambda: "0.1.0+01234567")
    run_stage(config, "told", {}, [], work)
    assert len(worked) == 2
    assert f"done again: by other code ({then}, now 0.1.0+01234567)" in capsys.readouterr().out
