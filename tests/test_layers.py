"""Who may import whom, and what the pure rooms leave alone."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "yolo_slim"

MAY_IMPORT = {  # room -> rooms, besides itself; a room is a file or a folder of the package
    "text": set(),
    "row": set(),
    "terminal": set(),
    "called": set(),
    "errors": {"text"},
    "mould": set(),
    "console": {"text"},
    "scratch": {"errors"},
    "devices": set(),
    "config": {"devices", "errors"},
    "record": {"errors", "text", "__version__"},
    "report": {"called", "devices", "errors", "record", "row"},
    "channels": {"errors", "mould"},
    "importance": {"channels", "errors", "mould"},
    "distill": {"errors"},
    "compress": {"called", "channels", "config", "errors", "mould"},
    "formats": {"channels", "errors", "mould", "text"},
    "heads": {"formats"},
    "checkpoint": {"errors", "formats"},
    "packing": {"checkpoint", "compress", "errors", "formats"},
    "data": {"channels", "console", "errors", "formats", "heads", "scratch"},
    "measure": {"channels", "console", "data", "devices", "errors", "formats", "heads", "mould", "row", "scratch"},
    "deploy": {"checkpoint", "config", "data", "errors", "formats", "heads", "mould", "scratch"},
    "runs": {"checkpoint", "config", "console", "data", "errors", "measure", "record", "row"},
    "timing": {
        "channels",
        "checkpoint",
        "config",
        "console",
        "deploy",
        "errors",
        "measure",
        "record",
        "row",
        "runs",
        "scratch",
    },
}
MAY_IMPORT["pruning"] = {
    "channels",
    "checkpoint",
    "config",
    "console",
    "data",
    "errors",
    "importance",
    "measure",
    "record",
    "mould",
    "timing",
}
MAY_IMPORT["training"] = {*MAY_IMPORT["pruning"], "compress", "pruning", "distill", "formats", "heads", "runs"}
MAY_IMPORT["sweeping"] = {*MAY_IMPORT["pruning"], "pruning", "runs"} - {"console", "measure"}
MAY_IMPORT["stages"] = {*MAY_IMPORT} - {"terminal"}
MAY_IMPORT["given"] = {"channels", "checkpoint", "config", "errors", "mould"}
MAY_IMPORT["python"] = {"channels", "checkpoint", "config", "errors", "given", "measure", "pruning"}
MAY_IMPORT["commands"] = {"config", "given", "record", "stages"}
MAY_IMPORT["compression"] = {"checkpoint", "compress", "config", "errors", "given", "pruning", "stages"}
MAY_IMPORT["usage"] = {"config", "stages"}  # what is said of stages, none of their recipes
MAY_IMPORT["cli"] = {"__version__", "config", "errors", "runs", "stages", "terminal", "usage"}
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT["__init__"] = {"commands", "compression", "errors", "python", "training"}  # each only when first asked for

PURE = {"channels", "importance", "distill", "compress"}
NOT_FROM_OUTSIDE = {**{room: {"ultralytics"} for room in PURE}, "report": {"torch", "ultralytics", "matplotlib"}}
METHODS = {"open", "read_text", "write_text", "read_bytes", "write_bytes", "save", "load", "cuda"}
DEVICE = re.compile(r"(cuda|cpu|mps|xpu)(:\d+)?")

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all imports, wherever they stand; a relative one begins with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def wrongs(source: str, room: str) -> list[str]:
    """What a file of this room does that it may not."""
    tree = ast.parse(source)
    found = []
    for name in imported(tree):
        top, *rest = name.split(".")
        if top == "" or name == "yolo_slim.*":
            found.append(f"import written as {name}")
        elif top == "yolo_slim" and rest and rest[0] not in {room, *MAY_IMPORT[room]}:
            found.append(f"{room} imports {rest[0]}")
        elif top in NOT_FROM_OUTSIDE.get(room, ()):
            found.append(f"{room} imports {top}")
    return found + [f"{room} {deed}" for deed in (impurities(tree) if room in PURE else [])]


def impurities(tree: ast.AST) -> Iterator[str]:
    """Printing, touching the disk, naming a device."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            method = called.rpartition(".")[2]
            if called in {"print", "open"} or ("." in called and method in METHODS):
                yield f"calls {method}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and DEVICE.fullmatch(node.value):
            yield f"names the device {node.value}"


def test_every_room_has_its_row() -> None:
    assert {room_of(path) for path in FILES} == MAY_IMPORT.keys()


def test_no_file_is_longer_than_can_be_read_at_once() -> None:
    assert [str(path) for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 300] == []


def test_no_room_is_above_and_below_another() -> None:
    order = graphlib.TopologicalSorter(MAY_IMPORT).static_order()
    assert {*order} == MAY_IMPORT.keys() | {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_keeps_to_its_room(path: Path) -> None:
    assert wrongs(path.read_text(encoding="utf-8"), room_of(path)) == []


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        pytest.param("channels", "from yolo_slim.stages.prune import prune", "channels imports stages", id="upwards"),
        pytest.param("channels", "from yolo_slim import record", "channels imports record", id="from the package"),
        pytest.param("channels", "import yolo_slim.cli as c", "channels imports cli", id="renamed"),
        pytest.param("measure", "def f():\n    from yolo_slim.report import draw", "measure imports report", id="late"),
        pytest.param("stages", "from yolo_slim.cli import main", "stages imports cli", id="the command line"),
        pytest.param("distill", "from yolo_slim.config import Config", "distill imports config", id="settings"),
        pytest.param("deploy", "from ..errors import SlimError", "import written as ..errors.SlimError", id="relative"),
        pytest.param("report", "from yolo_slim import *", "import written as yolo_slim.*", id="everything"),
        pytest.param("importance", "from ultralytics.nn import tasks", "importance imports ultralytics", id="outside"),
        pytest.param("report", "import torch.nn", "report imports torch", id="torch where only records are read"),
        pytest.param("distill", "print(1)", "distill calls print", id="printing"),
        pytest.param("channels", "with open(p) as f: pass", "channels calls open", id="a file"),
        pytest.param("channels", "x = p.read_text()", "channels calls read_text", id="a file by its path"),
        pytest.param("channels", "x.to('cuda:0')", "channels names the device cuda:0", id="a device"),
        pytest.param("importance", "x.cuda()", "importance calls cuda", id="a device by its method"),
    ],
)
def test_a_forbidden_thing_is_seen(room: str, source: str, wrong: str) -> None:
    assert wrongs(source, room) == [wrong]


@pytest.mark.parametrize(
    ("room", "source"),
    [
        pytest.param("channels", "from yolo_slim.channels.groups import Trace", id="its own room"),
        pytest.param("importance", "from yolo_slim.channels import Trace\nimport torch", id="a room below"),
        pytest.param("stages", "from yolo_slim import checkpoint, record", id="two rooms"),
        pytest.param("channels", "x = torch.empty(1, device='meta')", id="meta is no device"),
        pytest.param("measure", "print(open('a'), 'cuda')", id="measure is not pure"),
    ],
)
def test_an_allowed_thing_is_let_be(room: str, source: str) -> None:
    assert wrongs(source, room) == []


def test_arrows_point_down() -> None:
    order = list(MAY_IMPORT)  # bottom up
    for room, rooms in MAY_IMPORT.items():
        assert rooms & {*order[order.index(room) :]} == set(), room


def test_each_folder_says_its_one_sentence() -> None:
    for folder in sorted(p for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()):
        words = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        assert words.partition("\n\n")[0].endswith("."), folder.name
