"""Whatever is wrong with what a user gives: exit code 2, one message that says what to do, nothing half-written."""

import contextlib
import importlib
import os
import pickle
import resource
import shutil
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from tiny import PX, TINY, contents, refused, run, run_alone
from torch import nn
from ultralytics.nn.tasks import PoseModel, SegmentationModel

from yolo_slim import checkpoint, record
from yolo_slim.training import folder

pytest_plugins = ["tiny"]

RATIO = "prune.ratio=0.3"
SHORT = "sparse_train.min_steps=0"
"""A landing on a dozen images has hardly a step."""


def half_written(runs: Path) -> list[str]:
    """What no stage should leave behind: temporary files, pictures without their end, records that are not true."""
    parts = [p for p in runs.rglob("*") if ".part" in p.name or p.name.startswith("tmp")]
    pictures = [p for p in runs.rglob("*.svg") if not p.read_text().endswith("</svg>\n")]
    untrue = [p for p in runs.rglob(record.FILE) if record.read(p.parent) is None]
    return [str(p.relative_to(runs)) for p in [*parts, *pictures, *untrue]]


def done(runs: Path) -> set[str]:
    """The stages that are done."""
    return {p.parent.name for p in runs.rglob(record.FILE)}


@contextlib.contextmanager
def full_disk(left: int) -> Iterator[None]:
    """No file can become longer than `left` bytes: writing beyond fails as on a full disk, with an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, hard))  # Python ignores the signal that comes with it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def finished(original: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder in which `prune` has been done. Read it only."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    words = ["prune", f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", RATIO]
    assert run(*words, "prune.recalibrate=4").code == 0
    return runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A runs folder that is not there yet."""
    return tmp_path / "runs"


# ---------------------------------------------------------------------------------------------------------------------
# The detector


def keep(share: float, less: int = 0) -> Callable[[Path, Path], None]:
    """Only the first part of a sound checkpoint."""

    def spoil(bad: Path, original: Path) -> None:
        content = original.read_bytes()
        bad.write_bytes(content[: int(share * len(content)) - less])

    return spoil


def hold(content: bytes) -> Callable[[Path, Path], None]:
    return lambda bad, original: bad.write_bytes(content)


def pack(make: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    """A checkpoint, written by torch, of what is made of a sound one's path."""
    return lambda bad, original: torch.save(make(original), bad)


def fused(original: Path) -> dict:
    return {"model": checkpoint.load(original).fuse(verbose=False), "ema": None}


def other_task(kind: type[nn.Module], head: str) -> Callable[[Path], dict]:
    def make(original: Path) -> dict:
        description = yaml.safe_load(TINY.replace("Detect, [nc]", head)) | {"kpt_shape": [5, 3]}
        return {"model": kind(description, verbose=False), "ema": None}

    return make


def as_torchscript(bad: Path, original: Path) -> None:
    shutil.copy(original, bad)
    with zipfile.ZipFile(bad, "a") as file:
        root = file.namelist()[0].partition("/")[0]
        file.writestr(f"{root}/constants.pkl", pickle.dumps(()))


DAMAGED = ["not a readable checkpoint", "Copy it again"]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(None, ["no checkpoint at", "in that folder: sound.pt"], id="missing: its neighbours are named"),
        pytest.param(hold(b""), DAMAGED, id="empty"),
        pytest.param(keep(0, -1), DAMAGED, id="cut after one byte"),
        pytest.param(keep(0, -100), DAMAGED, id="cut in the first header"),
        pytest.param(keep(0.1), DAMAGED, id="cut in the pickle"),
        pytest.param(keep(0.5), DAMAGED, id="cut in the weights"),
        pytest.param(keep(1, 100), DAMAGED, id="cut in the zip's directory"),
        pytest.param(keep(1, 1), DAMAGED, id="cut by one byte"),
        pytest.param(hold(bytes(range(256)) * 64), DAMAGED, id="arbitrary bytes"),
        pytest.param(hold(b"\x93\x1f random \x00" * 500), DAMAGED, id="other arbitrary bytes"),
        pytest.param(
            hold(b"version https://git-lfs.github.com/spec/v1\n"),
            ["is a pointer of Git LFS", "git lfs pull"],
            id="a pointer of git-lfs",
        ),
        pytest.param(hold(b"<!DOCTYPE html><html>404 Not Found</html>"), DAMAGED, id="a page instead of a file"),
        pytest.param(pack(lambda p: torch.zeros(3)), ["expected an Ultralytics checkpoint", "Tensor"], id="a tensor"),
        pytest.param(
            pack(lambda p: checkpoint.load(p).state_dict()),
            ["holds no detector under 'model' or 'ema'", "model.0.conv.weight"],
            id="weights without a detector",
        ),
        pytest.param(pack(lambda p: {"model": None}), ["holds no detector"], id="an empty entry"),
        pytest.param(as_torchscript, ["TorchScript"], id="a TorchScript export"),
        pytest.param(pack(fused), ["is fused", "best.pt"], id="fused"),
        pytest.param(
            pack(other_task(SegmentationModel, "Segment, [nc, 8, 16]")),
            ["expected a detection model", "SegmentationModel", "not supported"],
            id="segmentation",
        ),
        pytest.param(
            pack(other_task(PoseModel, "Pose, [nc, [5, 3]]")),
            ["expected a detection model", "PoseModel", "not supported"],
            id="pose",
        ),
    ],
)
def test_a_checkpoint_that_is_no_detector(
    original: Path, runs: Path, tmp_path: Path, spoil: Callable | None, expected: list[str]
) -> None:
    bad = tmp_path / "mine.pt"
    if spoil is None:
        shutil.copy(original, tmp_path / "sound.pt")
    else:
        spoil(bad, original)
    before = contents(tmp_path)
    refused(run("prune", f"model={bad}", f"imgsz={PX}", f"runs={runs}", RATIO), bad, *expected)
    assert contents(tmp_path) == before
    assert not runs.exists()


@pytest.mark.parametrize("name", ["mine.onnx", "mine.torchscript", "mine"])
def test_another_kind_of_file(runs: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    answer = run("prune", f"model={tmp_path / name}", f"imgsz={PX}", f"runs={runs}", RATIO)
    refused(answer, tmp_path / name, "ending in .pt", "model .yaml")
    assert not runs.exists()


class Bait:
    """Creates a folder when it is unpickled by a loader that runs what a pickle names."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "the old format"])
def test_code_in_a_checkpoint_is_not_run(runs: Path, tmp_path: Path, zipped: bool) -> None:
    bad, mark = tmp_path / "mine.pt", tmp_path / "was-run"
    torch.save({"model": Bait(mark)}, bad, _use_new_zipfile_serialization=zipped)
    torch.load(bad, weights_only=False)
    assert mark.exists()  # the bait works
    mark.rmdir()
    refused(run("prune", f"model={bad}", f"runs={runs}", RATIO), bad, f"{os.mkdir.__module__}.mkdir", "refused")
    assert not mark.exists()
    assert not runs.exists()


def test_a_module_that_a_checkpoint_names_is_not_even_imported(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, mark = tmp_path / "mine.pt", tmp_path / "was-imported"
    source = f"import pathlib, torch\npathlib.Path({str(mark)!r}).touch()\nclass Net(torch.nn.Module): pass\n"
    (tmp_path / "foreign_code.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    torch.save({"model": importlib.import_module("foreign_code").Net(), "ema": None}, bad)
    del sys.modules["foreign_code"]
    mark.unlink()
    refused(run("prune", f"model={bad}", f"runs={runs}", RATIO), bad, "foreign_code.Net", "refused", "ultralytics")
    assert not mark.exists()
    assert "foreign_code" not in sys.modules
    assert not runs.exists()


def test_a_hollow_checkpoint_of_the_older_repository(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "mine.pt"
    with monkeypatch.context() as patch:  # ultralytics/yolov5 saves a class of its own module
        module = types.ModuleType("models.yolo")
        module.Model = type("Model", (nn.Module,), {"__module__": "models.yolo"})
        patch.setitem(sys.modules, "models", types.ModuleType("models"))
        patch.setitem(sys.modules, "models.yolo", module)
        torch.save({"model": module.Model(), "ema": None, "epoch": -1}, bad)
    answer = run("prune", f"model={bad}", f"runs={runs}", RATIO)
    refused(answer, bad, "is no sound detector", "`yaml`")
    assert not runs.exists()


@pytest.mark.parametrize("stage", ["run", "sparse-train", "prune", "inspect"])
def test_every_stage_that_reads_the_detector_says_so(stage: str, data: Path, runs: Path, tmp_path: Path) -> None:
    answer = run(stage, f"model={tmp_path / 'none.pt'}", f"data={data}", f"runs={runs}", SHORT)
    refused(answer, tmp_path / "none.pt")
    assert not runs.exists()


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        pytest.param("finetune", ["nothing pruned yet", "yolo-slim prune"], id="finetune"),
        pytest.param("export", ["nothing slim to export", "yolo-slim prune"], id="export"),
        pytest.param("report", ["nothing to report", "yolo-slim run"], id="report"),
    ],
)
def test_a_stage_out_of_order_names_the_one_before(
    stage: str, expected: list[str], original: Path, data: Path, runs: Path
) -> None:
    refused(run(stage, f"model={original}", f"data={data}", f"runs={runs}"), runs / "slim", *expected)
    assert not runs.exists()


# ---------------------------------------------------------------------------------------------------------------------
# The data set


def described(**changes: object) -> Callable[[Path], str]:
    """The text of a data YAML: the sound one with changes; None takes an entry away."""

    def text(data: Path) -> str:
        entries = yaml.safe_load(data.read_text()) | {"path": str(data.parent)} | changes
        return yaml.safe_dump({key: value for key, value in entries.items() if value is not None})

    return text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(described(names=["cell", "other"]), ["detects 4 classes", "names 2"], id="fewer classes"),
        pytest.param(described(names=list("abcde")), ["detects 4 classes", "names 5"], id="more classes"),
        pytest.param(None, ["does not exist"], id="missing"),
        pytest.param(lambda data: "", ["train"], id="empty"),
        pytest.param(lambda data: "names: [a, b", ["YAML"], id="no YAML"),
        pytest.param(lambda data: "- a\n- b\n", ["YAML"], id="a list"),
        pytest.param(described(train=None), ["'train:' key missing"], id="no train"),
        pytest.param(described(val=None), ["'val:' key missing"], id="no val"),
        pytest.param(described(names=None), ["'names' or 'nc'"], id="no names"),
        pytest.param(described(nc=3), ["'names' length 4 and 'nc: 3' must match"], id="names and nc disagree"),
        pytest.param(described(val="images/none"), ["images/none"], id="a folder that is not there"),
        pytest.param(described(train=3), ["train"], id="a number for a folder"),
    ],
)
@pytest.mark.parametrize("stage", ["prune", "sparse-train"])
def test_a_data_set_that_does_not_fit(
    original: Path, data: Path, runs: Path, tmp_path: Path, stage: str, text: Callable | None, expected: list[str]
) -> None:
    bad = tmp_path / "mine.yaml"
    if text is not None:
        bad.write_text(text(data))
    before = contents(tmp_path)
    answer = run(stage, f"model={original}", f"data={bad}", f"imgsz={PX}", f"runs={runs}", RATIO, SHORT)
    refused(answer, bad, *expected)
    assert contents(tmp_path) == before
    assert not runs.exists()


@pytest.mark.parametrize(
    ("changes", "word", "expected"),
    [
        pytest.param({"train": "images/none"}, "seed=0", ["train", "images/none"], id="no images to recalibrate on"),
        pytest.param({"test": "images/none"}, "seed=0", ["test", "images/none"], id="a test split that is not there"),
        pytest.param({}, "report.split=test", ["'test'"], id="asked for a split that is not there"),
    ],
)
def test_images_that_are_not_there(
    original: Path, data: Path, runs: Path, tmp_path: Path, changes: dict, word: str, expected: list[str]
) -> None:
    bad = tmp_path / "mine.yaml"
    bad.write_text(described(**changes)(data))
    answer = run("prune", f"model={original}", f"data={bad}", f"imgsz={PX}", f"runs={runs}", RATIO, word)
    refused(answer, bad, *expected)
    assert "\x1b" not in answer.err  # no colours of Ultralytics' log inside the message
    assert half_written(runs) == []
    assert "pruned" not in done(runs)


@pytest.mark.parametrize("model", ["original", "untrained"])
def test_training_without_a_data_set(original: Path, runs: Path, tmp_path: Path, model: str) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    path = original if model == "original" else tmp_path / "tiny.yaml"
    refused(run("sparse-train", f"model={path}", f"imgsz={PX}", f"runs={runs}"), "data=path/to/data.yaml")
    assert half_written(runs) == []
    assert "sparse" not in done(runs)


# ---------------------------------------------------------------------------------------------------------------------
# Settings


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        pytest.param("prune.ration=0.3", ["prune.ration", "did you mean prune.ratio?"], id="unknown"),
        pytest.param("prune.ratio=half", ["prune.ratio", "half"], id="mistyped"),
        pytest.param("finetune.train.batchsize=8", ["batchsize", "did you mean batch?"], id="unknown to Ultralytics"),
        pytest.param("finetune.train.batch=many", ["batch", "many"], id="mistyped for Ultralytics"),
        pytest.param("prune.target.flops=0.5", ["ratio and target", "choose one"], id="two budgets"),
        pytest.param("imgsz=50", ["imgsz", "50"], id="an image that no stride divides"),
        pytest.param("device=banana", ["device", "banana"], id="no device at all"),
        pytest.param("device=99", ["device", "99"], id="a GPU that is not there"),
    ],
)
def test_a_setting_that_is_wrong(original: Path, data: Path, runs: Path, word: str, expected: list[str]) -> None:
    words = ["run", f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", RATIO, SHORT]
    refused(run(*words, word), *expected)
    assert not runs.exists()


@pytest.mark.parametrize("word", ["imgsz=50", "device=banana"])
@pytest.mark.parametrize("stage", ["prune", "inspect"])
def test_no_setting_ends_in_a_traceback(original: Path, runs: Path, stage: str, word: str) -> None:
    answer = run(stage, f"model={original}", f"imgsz={PX}", f"runs={runs}", RATIO, word)
    assert answer.code in {0, 2}  # rounded up, left unused or refused; an exception would have come through


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(
            ["prune.target.flops=0.01"],
            ["cannot be met", "flops x0.010 (lowest possible: x0.", "prune.min_keep"],
            id="fewer FLOPs than the floors allow",
        ),
        pytest.param(["prune.target.params=0.01"], ["params x0.010 (lowest possible: x0."], id="parameters"),
        pytest.param(["prune.ratio=0.99"], ["cannot be met", "channels x0.0"], id="channels"),
        pytest.param(
            ["prune.target.flops=0.9", "prune.exclude=[model]"], ["cannot be met", "prune.exclude"], id="all excluded"
        ),
        pytest.param(
            ["prune.ratio=0.3", "prune.criterion=l3"], ["prune.criterion", "bn_scale, l1, l2"], id="criterion"
        ),
        pytest.param([], ["prune.ratio", "prune.target.flops"], id="no budget at all"),
        pytest.param(
            ["prune.layers.model.77=0.3"],
            ["prune.layers", "model.77", "yolo-slim inspect"],
            id="a layer that is not there",
        ),
        pytest.param(["prune.ratio=0.3", "prune.exclude=[modl.0]"], ["prune.exclude", "did you mean"], id="misspelt"),
        pytest.param(
            ["prune.ratio=0.3", "prune.absorb=measured"], ["prune.absorb", "data="], id="nothing to measure on"
        ),
    ],
)
def test_a_budget_that_cannot_be_met(original: Path, runs: Path, words: list[str], expected: list[str]) -> None:
    before = contents(original.parent)
    refused(run("prune", f"model={original}", f"imgsz={PX}", f"runs={runs}", *words), *expected)
    assert half_written(runs) == []
    assert "pruned" not in done(runs)
    assert list(runs.rglob("pruned.pt")) == []
    assert contents(original.parent) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([], ["prune.ratio", "prune.target.flops"], id="no budget at all"),
        pytest.param(["prune.target.flops=0.01"], ["cannot be met"], id="fewer FLOPs than the floors allow"),
        pytest.param([RATIO, "prune.criterion=l3"], ["prune.criterion", "bn_scale", "l3"], id="no such criterion"),
        pytest.param([RATIO, "prune.exclude=[modl.0]"], ["prune.exclude", "modl.0"], id="no such layer"),
        pytest.param(
            [RATIO, "finetune.distill.outputs.boxes.weight=1"],
            ["finetune.distill.outputs", "boxes", "box"],
            id="no such loss",
        ),
        pytest.param([RATIO, "finetune.distill.teacher=elsewhere.pt"], ["elsewhere.pt"], id="no such teacher"),
        pytest.param(
            [RATIO, "export.int8=[onnx]", "export.int8_float=[hed]"],
            ["export.int8_float", "hed", "head"],
            id="nothing to keep in float",
        ),
    ],
)
def test_no_training_before_a_mistake_is_told(
    original: Path, data: Path, runs: Path, words: list[str], expected: list[str]
) -> None:
    training = ["sparse_train.epochs=1", SHORT, "sparse_train.train={workers: 0, batch: 8}"]
    refused(
        run("run", f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", *training, *words), *expected
    )
    assert list(runs.rglob("train")) == []


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["prune.ratio=0.99"], id="a budget that cannot be met"),
        pytest.param(["prune.layers.model.77=0.3"], id="a layer that is not there"),
    ],
)
def test_a_mistake_does_not_undo_what_was_done(
    original: Path, data: Path, finished: Path, runs: Path, words: list[str]
) -> None:
    shutil.copytree(finished, runs)
    before, log = contents(runs), runs / "slim" / "log.txt"
    said = log.read_text(encoding="utf-8")
    answer = run("prune", f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", *words)
    assert answer.code == 2
    assert log.read_text(encoding="utf-8").startswith(said), "what it says may become more"
    assert contents(runs) | {"slim/log.txt": ""} == before | {"slim/log.txt": ""}


def test_ultralytics_arguments_win_over_our_choices(
    original: Path, data: Path, finished: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, runs)
    seen = {}

    def stand_in(trainer: type, model: Path, run_folder: Path, resume: bool, **arguments: object) -> None:
        seen.update(arguments)
        (run_folder / "weights").mkdir()
        shutil.copy(model, run_folder / "weights" / "best.pt")

    monkeypatch.setattr(folder, "train", stand_in)
    words = ["finetune", f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", RATIO]
    assert run(*words, "finetune.train={plots: true, workers: 0}").code == 0
    assert (seen["plots"], seen["workers"]) == (True, 0)


def test_what_was_made_of_another_detector_is_not_taken(
    original: Path, finished: Path, runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, runs)
    shutil.rmtree(runs / "slim" / "pruned")
    before = record.read(runs / "slim" / "original")
    sparse = runs / "slim" / "sparse"
    sparse.mkdir()
    shutil.copy(original, sparse / "sparse.pt")
    sums = {"weights": record.sha256(sparse / "sparse.pt")}
    inputs = {"original/original.pt": before.sums["weights"]}
    record.write(
        sparse, record.Record("sparse", {}, inputs, {"weights": "sparse.pt"}, sums, {}, 1.0, record.versions())
    )

    other = checkpoint.load(original)
    nn.init.ones_(other.model[0].conv.weight)
    checkpoint.save(other, tmp_path / "other.pt")
    answer = run("prune", f"model={tmp_path / 'other.pt'}", f"imgsz={PX}", f"runs={runs}", RATIO)
    made = record.read(runs / "slim" / "pruned")
    assert answer.code == 2 or "sparse/sparse.pt" not in made.inputs


# ---------------------------------------------------------------------------------------------------------------------
# Where results go


def test_results_may_go_to_any_folder(original: Path, data: Path, finished: Path, tmp_path: Path) -> None:
    runs = tmp_path / "o'brien's runs"  # Ultralytics drops apostrophes from the names of weights, then looks online
    shutil.copytree(finished, runs)
    words = ["finetune", f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", RATIO]
    answer = run(*words, "finetune.epochs=1", "finetune.train={workers: 0, batch: 8}")
    assert (answer.code, answer.err) == (0, "")
    assert "finetuned" in done(runs)


@pytest.mark.parametrize("below", ["", "deeper"], ids=["a file", "below a file"])
@pytest.mark.parametrize("stage", ["prune", "sparse-train"])
def test_runs_that_cannot_be_a_folder(original: Path, data: Path, tmp_path: Path, stage: str, below: str) -> None:
    file = tmp_path / "results"
    file.write_text("mine")
    answer = run(stage, f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={file / below}", RATIO, SHORT)
    refused(answer, "cannot write to", file)
    assert contents(tmp_path).keys() == {"results"}
    assert file.read_text() == "mine"


@pytest.mark.parametrize("stage", ["pruned", "finetuned", "export", "report"])
def test_a_file_where_a_stage_wants_its_folder(
    original: Path, data: Path, finished: Path, runs: Path, stage: str
) -> None:
    shutil.copytree(finished, runs)
    shutil.rmtree(runs / "slim" / stage, ignore_errors=True)
    if stage != "pruned":
        assert (runs / "slim" / "pruned").is_dir()
    (runs / "slim" / stage).write_text("mine")
    before = contents(runs)
    command = {"pruned": "prune", "finetuned": "finetune"}.get(stage, stage)
    answer = run(command, f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", RATIO)
    refused(answer, runs / "slim" / stage)
    assert contents(runs) == before


@pytest.mark.parametrize(
    ("command", "left", "expected"),
    [
        pytest.param("prune", 200_000, "original/original.pt", id="the original's weights"),
        pytest.param("prune", 0, "run.json", id="not one byte"),
    ],
)
def test_a_full_disk_at_the_start(
    original: Path, data: Path, runs: Path, command: str, left: int, expected: str
) -> None:
    words = [command, f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", RATIO]
    before = contents(original.parent)
    with full_disk(left):
        answer = run(*words)
    refused(answer, runs / "slim" / expected, "ree some space")
    assert contents(runs) == {}
    assert contents(original.parent) == before


@pytest.mark.parametrize(
    ("command", "left", "expected"),
    [
        pytest.param("prune", 150_000, "pruned/pruned.pt", id="prune: the weights"),
        pytest.param("sparse-train", 150_000, "sparse/train/weights/last.pt", id="sparse-train: the first epoch"),
        pytest.param("finetune", 150_000, "finetuned/train/weights/last.pt", id="finetune: the first epoch"),
        pytest.param("export", 150_000, "export/slim.onnx", id="export: the file"),
        pytest.param("report", 1_000, "report/report.json", id="report: the numbers"),
        pytest.param("report", 20_000, "report", id="report: the plots"),
    ],
)
def test_a_full_disk_in_a_stage(
    original: Path, data: Path, finished: Path, runs: Path, command: str, left: int, expected: str
) -> None:
    shutil.copytree(finished, runs)
    before = contents(runs)
    words = [command, f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", "prune.ratio=0.2"]
    words += [f"{stage}.{word}" for stage in ("sparse_train", "finetune") for word in ("epochs=1", "train.workers=0")]
    with full_disk(left):
        answer = run(*words, SHORT, "sparse_train.mode=targeted", "export.images=1", "report.latency_runs=1")
    refused(answer, f"{runs / 'slim'}/{expected}")
    assert half_written(runs) == []
    after = contents(runs)
    # A stage of its own, done again before the cut; and the log, which tells what went wrong.
    plan = {path for path in before if path.startswith(("slim/plan/", "slim/log.txt"))}
    assert {path: after.get(path) for path in before.keys() - plan} == {
        p: t for p, t in before.items() if p not in plan
    }
    assert plan <= after.keys()
    assert [path for path in after.keys() - before.keys() if path.endswith((".pt", ".onnx", ".md", ".html"))] == []


def test_a_process_of_its_own_ends_with_2_on_a_full_disk(original: Path, runs: Path, tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from yolo_slim.cli import main; sys.exit(main())"
    )
    answer = run_alone("prune", f"model={original}", f"imgsz={PX}", f"runs={runs}", RATIO, cwd=tmp_path, code=code)
    refused(answer, runs / "slim" / "original" / "original.pt", "ree some space")
    assert contents(tmp_path) == {}
