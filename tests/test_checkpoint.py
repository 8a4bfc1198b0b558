"""Checkpoints: what we write is Ultralytics' own format, with nothing of this package in it."""

import copy
import json
import pickletools
import re
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import CLASSES, PX, TINY, build, contents, run_alone
from torch import nn
from ultralytics import YOLO
from ultralytics.utils.checks import check_yolov5u_filename

from yolo_slim import checkpoint, prune
from yolo_slim.errors import SlimError
from yolo_slim.measure import cost

pytest_plugins = ["tiny"]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


# ---------------------------------------------------------------------------------------------------------------------
# Write and read


def test_only_the_rounding_to_fp16_is_lost(tmp_path: Path) -> None:
    detector = build(tmp_path)
    checkpoint.save(detector, tmp_path / "slim.pt")
    again = checkpoint.load(tmp_path / "slim.pt")
    assert same_weights(again, copy.deepcopy(detector).half().float())
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in again.parameters())
    assert not again.training
    assert again.yaml == detector.yaml
    assert torch.equal(again.stride, detector.stride)


def test_writing_again_changes_nothing_more(tmp_path: Path, detector: nn.Module) -> None:
    again = checkpoint.load(checkpoint.save(detector, tmp_path / "slim.pt"))
    assert same_weights(again, detector)
    assert again.args == detector.args


def test_saving_leaves_the_detector_alone(tmp_path: Path, detector: nn.Module) -> None:
    detector.train()
    before = copy.deepcopy(detector)
    checkpoint.save(detector, tmp_path / "slim.pt")
    assert same_weights(detector, before)
    assert detector.training
    assert {p.dtype for p in detector.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in detector.parameters())


def test_only_the_checkpoint_is_written(tmp_path: Path, detector: nn.Module) -> None:
    path = checkpoint.save(detector, tmp_path / "new" / "slim.pt", note="cut twice")
    assert contents(tmp_path).keys() == {"new/slim.pt"}
    assert checkpoint.read(path)["note"] == "cut twice"


def test_a_variance_beyond_fp16_becomes_its_largest_number(tmp_path: Path, detector: nn.Module) -> None:
    detector.model[0].bn.running_var[0] = 1e6
    again = checkpoint.load(checkpoint.save(detector, tmp_path / "slim.pt"))
    assert again.model[0].bn.running_var[0] == torch.finfo(torch.float16).max
    assert all(value.isfinite().all() for value in again.state_dict().values())


def test_the_average_of_a_training_is_read(tmp_path: Path, detector: nn.Module) -> None:
    other = copy.deepcopy(detector)
    nn.init.ones_(other.model[0].conv.weight)
    torch.save({"model": detector, "ema": other, "train_args": {}}, tmp_path / "last.pt")
    assert (checkpoint.load(tmp_path / "last.pt").model[0].conv.weight == 1).all()


def test_arguments_may_be_a_namespace(tmp_path: Path, detector: nn.Module) -> None:
    detector.args = SimpleNamespace(**detector.args, foreign=object())
    again = checkpoint.load(checkpoint.save(detector, tmp_path / "slim.pt"))
    assert "foreign" not in again.args
    assert again.args["model"] == detector.args.model


def test_a_yaml_gives_an_untrained_detector(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    detector = checkpoint.load(tmp_path / "tiny.yaml")
    assert detector.model[-1].nc == CLASSES
    assert not detector.training
    assert checkpoint.load(checkpoint.save(detector, tmp_path / "tiny.pt")).yaml["head"] == detector.yaml["head"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(None, "found no file", id="not there"),
        pytest.param("nc: 4\nbackbone: [[-1, 1, Foo, [8]]]\nhead: []\n", "Foo", id="a layer that does not exist"),
        pytest.param("nc: 4\n", "backbone", id="no layers"),
        pytest.param("nc: [", "cannot build", id="no YAML"),
        pytest.param(TINY.replace("Detect, [nc]", "Segment, [nc, 8, 16]"), "segment", id="for another task"),
    ],
)
def test_a_model_yaml_that_cannot_be_built(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SlimError) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# File names


def test_a_file_named_like_an_asset_is_read_as_it_is(
    tmp_path: Path, detector: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_yolov5u_filename("yolov5n.pt", verbose=False) == "yolov5nu.pt"  # Ultralytics would read the other one
    checkpoint.save(detector, "mine.pt")
    Path("mine.pt").rename("yolov5n.pt")
    other = copy.deepcopy(detector)
    nn.init.ones_(other.model[0].conv.weight)
    checkpoint.save(other, "yolov5nu.pt")
    assert same_weights(checkpoint.load("yolov5n.pt"), detector)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["yolov5n.pt", "yolov5nu.pt"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("o'brien.pt", id="an apostrophe, which Ultralytics drops"),
        pytest.param("o'brien/best.pt", id="an apostrophe in a folder"),
        pytest.param(" best of two.pt", id="spaces"),
        pytest.param("größe=3,5%20.pt", id="other letters and signs"),
        pytest.param("yolov3-tiny.pt", id="another asset"),
    ],
)
def test_any_name_can_be_read(tmp_path: Path, original: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    shutil.copy(original, name)
    assert same_weights(checkpoint.load(name), checkpoint.load(original))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("yolov5n.pt", id="an asset's name"),
        pytest.param("my_yolov5x.pt", id="its end"),
        pytest.param("yolov5l6.pt", id="P6"),
        pytest.param("yolov3.pt", id="v3"),
        pytest.param("yolov3-spp.pt", id="v3 with SPP"),
        pytest.param("weights/yolov5n.pt", id="in a folder"),
        pytest.param("runs/yolov5n.pt", id="in a folder with a u, but files are moved"),
    ],
)
def test_a_name_that_would_be_looked_up_elsewhere_is_not_written(
    tmp_path: Path, loaded: nn.Module, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SlimError, match=f"{Path(name).name} would be looked up .* choose a name like slim.pt"):
        checkpoint.save(loaded, name)
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("name", ["yolov5n_slim.pt", "yolov5nu.pt", "bccd_v5n.pt", "yolov8n.pt"])
def test_other_names_are_written(tmp_path: Path, loaded: nn.Module, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkpoint.save(loaded, name) == Path(name)


# ---------------------------------------------------------------------------------------------------------------------
# Slim detectors


def test_the_cut_is_in_the_checkpoint(original: Path, slim: Path) -> None:
    full, less = checkpoint.load(original), checkpoint.load(slim)
    assert checkpoint.is_slim(less)
    assert not checkpoint.is_slim(full)
    (cut,) = less.yaml["slim"]["cuts"]
    assert cut
    for name, kept in cut.items():
        assert len(kept) == less.get_submodule(name).out_channels < full.get_submodule(name).out_channels
    assert less.yaml["slim"]["full"] == {key: full.yaml[key] for key in ("backbone", "head")}
    assert less.yaml["head"] == full.yaml["head"]


def test_a_second_cut_keeps_both_lists(tmp_path: Path, slim: Path, original: Path) -> None:
    once = checkpoint.load(slim)
    twice = prune(once, imgsz=PX, ratio=0.2)
    again = checkpoint.load(checkpoint.save(twice.model, tmp_path / "twice.pt"))
    second = {name: k for name, k in twice.kept.items() if len(k) < once.get_submodule(name).out_channels}
    assert again.yaml["slim"]["cuts"] == [*once.yaml["slim"]["cuts"], second]
    assert second
    assert again.yaml["slim"]["full"] == {key: checkpoint.load(original).yaml[key] for key in ("backbone", "head")}
    assert len(once.yaml["slim"]["cuts"]) == 1  # the first detector is left alone


def test_nothing_of_this_package_is_in_the_file(slim: Path) -> None:
    allowed = torch.serialization.get_safe_globals()  # Ultralytics' loader adds its classes for the whole process
    torch.serialization.clear_safe_globals()
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(slim)
    finally:
        torch.serialization.add_safe_globals(allowed)
    assert "ultralytics.nn.tasks.DetectionModel" in names
    assert [name for name in names if not name.startswith(("ultralytics.", "torch.", "builtins."))] == []
    with zipfile.ZipFile(slim) as file:
        (pickled,) = (name for name in file.namelist() if name.endswith("data.pkl"))
        named = {str(value) for _, value, _ in pickletools.genops(file.read(pickled)) if isinstance(value, str)}
    assert [text for text in named if re.match(r"yolo_slim(\.\w+)* \w", text)] == []  # "module name" of a GLOBAL


STOCK = """
import json
from pathlib import Path

class Refuse:  # this machine does not have the package
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "yolo_slim":
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
try:
    import yolo_slim
    sys.exit("the package can be imported, so this proves nothing")
except ImportError:
    pass

import numpy as np
from ultralytics import YOLO

data, px = sys.argv[1], int(sys.argv[2])
found = {}
model = YOLO("slim.pt")
found["params"] = sum(p.numel() for p in model.model.parameters())
image = np.random.default_rng(0).integers(0, 255, (px, px, 3), np.uint8)
found["boxes"] = model.predict(image, imgsz=px, conf=1e-3, verbose=False)[0].boxes.data.tolist()
box = YOLO("slim.pt").val(data=data, imgsz=px, plots=False, project="out", workers=0, verbose=False).box
found["map"] = [box.map50, box.map]
found["onnx"] = Path(YOLO("slim.pt").export(format="onnx", imgsz=px)).name
try:
    YOLO("slim.pt").train(data=data, imgsz=px, epochs=1, batch=8, project="out", workers=0, plots=False)
    found["train"] = "went through"
except Exception as e:
    found["train"] = str(e)
found["modules"] = [name for name in sys.modules if name.startswith("yolo_slim")]
Path("found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def elsewhere(slim: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where stock Ultralytics has used the slim detector, in a process that cannot import this package."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(slim, folder / "slim.pt")
    answer = run_alone(data, PX, cwd=folder, code=STOCK)
    assert answer.code == 0, answer.err
    return folder


@pytest.fixture(scope="module")
def found(elsewhere: Path) -> dict:
    return json.loads((elsewhere / "found.json").read_text())


def test_stock_ultralytics_never_saw_this_package(found: dict) -> None:
    assert found["modules"] == []


def test_stock_ultralytics_loads_the_slim_detector(found: dict, slim: Path) -> None:
    assert found["params"] == sum(p.numel() for p in checkpoint.load(slim).parameters())


def test_stock_ultralytics_predicts(found: dict, slim: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (PX, PX, 3), np.uint8)
    here = YOLO(slim).predict(image, imgsz=PX, conf=1e-3, verbose=False)[0].boxes.data.tolist()
    assert len(here) > 0
    np.testing.assert_allclose(found["boxes"], here, rtol=1e-3, atol=1e-3)


def test_stock_ultralytics_validates(found: dict) -> None:
    assert all(0 <= value <= 1 for value in found["map"])


def test_stock_ultralytics_exports(found: dict, elsewhere: Path) -> None:
    assert (elsewhere / found["onnx"]).stat().st_size > 10_000


def test_the_stock_trainer_stops_and_says_what_to_do(found: dict, elsewhere: Path, slim: Path) -> None:
    assert "SlimTrainer" in found["train"]
    assert "full width" in found["train"]
    assert list((elsewhere / "out").rglob("*.pt")) == []
    assert (elsewhere / "slim.pt").read_bytes() == slim.read_bytes()


def test_the_stock_trainer_stops_in_the_same_process_too(slim: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"SlimTrainer"):
        YOLO(slim).train(data=str(data), imgsz=PX, epochs=1, project=str(tmp_path), workers=0, plots=False)


def test_fine_tuning_a_slim_detector_by_hand_keeps_it_slim(slim: Path, data: Path, tmp_path: Path) -> None:
    from yolo_slim import SlimTrainer

    model = YOLO(slim)
    settings = {"data": str(data), "imgsz": PX, "epochs": 1, "batch": 8, "workers": 0, "plots": False, "device": "cpu"}
    model.train(trainer=SlimTrainer, project=str(tmp_path), **settings)
    trained = checkpoint.load(next(tmp_path.rglob("best.pt")))
    assert cost(trained, PX) == cost(checkpoint.load(slim), PX)
    assert trained.yaml == checkpoint.load(slim).yaml
    assert not same_weights(trained, checkpoint.load(slim))
