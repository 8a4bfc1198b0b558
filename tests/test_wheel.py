"""The package as others install it: built, unpacked elsewhere, and used without the source tree."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a wheel of this tree holds; its dependencies are those that are here."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "yolo_slim"):  # a build writes beside what it builds
        (tree / name).symlink_to(ROOT / name)
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, tree]
    subprocess.run(list(map(str, words)), check=True, capture_output=True)
    (wheel,) = folder.glob("yolo_slim-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_it_holds_all_that_is_no_code(installed: Path) -> None:
    def others(root: Path) -> set[str]:
        files = (path.relative_to(root).as_posix() for path in (root / "yolo_slim").rglob("*") if path.is_file())
        return {name for name in files if not name.endswith((".pyc", ".md"))}

    assert others(ROOT) == others(installed)


USED = """
import yolo_slim
from yolo_slim.cli import main
print(yolo_slim.__file__)
pruned = yolo_slim.prune("yolov5n.yaml", imgsz=64, ratio=0.3, criterion="l1")
print(yolo_slim.save(pruned.model, "slim.pt"))
assert main(["inspect", "slim.pt"]) == 0
"""


def test_it_works_without_the_source_tree(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    told = subprocess.run([sys.executable, "-c", USED], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    first, second, *_ = told.stdout.splitlines()
    assert first.startswith(str(installed)) and second == "slim.pt"
