"""Model YAMLs of unknown origin: looked at before anything in them is evaluated, looked up or built."""

from __future__ import annotations

from pathlib import Path

import pytest
import ultralytics
import yaml
from tiny import TINY, refused, run
from torch import nn
from ultralytics.nn.modules import Conv

from yolo_slim import checkpoint
from yolo_slim.errors import SlimError
from yolo_slim.formats.building import description
from yolo_slim.formats.model_yaml import check_runs, described, layers_of

MARK = "was-run"


def changed(**entries: object) -> str:
    return yaml.safe_dump({**yaml.safe_load(TINY), **entries})


def at(i: int, row: list) -> str:
    """The tiny description with another layer in place of one of its backbone."""
    backbone = yaml.safe_load(TINY)["backbone"]
    return changed(backbone=[*backbone[:i], row, *backbone[i + 1 :]])


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

WRONG = {
    "code as an activation": (changed(activation=f"__import__('os').system('touch {MARK}')"), "activation"),
    "code in an activation's arguments": (changed(activation=f"nn.SiLU(open('{MARK}', 'w'))"), "activation"),
    "code around an activation": (changed(activation="nn.SiLU() or exit()"), "activation"),
    "an activation's attribute": (changed(activation="nn.SiLU().forward.__globals__"), "activation"),
    "an activation that is none": (changed(activation="nn.Conv2d(3, 8, 1)"), "activation"),
    "an activation that is a list": (changed(activation=["nn.SiLU()"]), "activation"),
    "an activation with its words spread": (changed(activation="nn.SiLU(**{})"), "activation"),
    "a function as a layer": (at(1, [-1, 1, "load_checkpoint", ["second.pt"]]), "'load_checkpoint'", "layer 1"),
    "a class that loads files": (at(1, [-1, 1, "DetectionModel", ["second.yaml"]]), "'DetectionModel'", "layer 1"),
    "a network to download": (at(1, [-1, 1, "TorchVision", [32, "resnet18", "DEFAULT"]]), "'TorchVision'"),
    "a layer of torchvision": (at(1, [-1, 1, "torchvision.ops.Conv2dNormActivation", [16, 32]]), "never loaded again"),
    "a file of torch": (at(1, [-1, 1, "nn.init", [32]]), "'nn.init'"),
    "a layer that is a number": (at(1, [-1, 1, 7, [32]]), "layer 1"),
    "a row that is no list": (at(1, 7), "layer 1"),  # type: ignore[arg-type]
    "a row that is too short": (at(1, [-1, 1]), "layer 1"),
    "an input to come": (at(1, [5, 1, "Conv", [32, 3, 2]]), "layer 1", "5"),
    "an input that is a text": (at(1, ["x", 1, "Conv", [32, 3, 2]]), "layer 1", "'x'"),
    "endless repeats": (at(2, [-1, 10**7, "C3", [32]]), "10000000 times"),
    "repeats of a text": (at(2, [-1, "2", "C3", [32]]), "layer 2"),
    "an endless depth": (changed(depth_multiple=10**9), "depth_multiple"),
    "an endless width": (changed(width_multiple=1e300), "width_multiple"),
    "a width of zero": (changed(width_multiple=0), "width_multiple"),
    "absurd channels": (at(1, [-1, 1, "Conv", [10**9, 3]]), "layer 1", "1000000000"),
    "more than any patience": (at(1, [-1, 1, "Conv", [131072, 9]]), "G multiplications"),
    "more than any memory": (at(4, [-1, 150, "C3", [2048]]), "parameters"),
    "absurd channels as a text": (at(1, [-1, 1, "Conv", ["999999999999", 3]]), "comes to a tensor of"),
    "more layers than can be built": (at(2, [-1, 1, "RepNCSPELAN4", [32, 32, 16, 100_000]]), "20,000 layers"),
    "an endless image": (at(1, [-1, 1, "nn.Upsample", [None, 100_000, "nearest"]]), "numbers"),
    "a text that is a program": (at(1, [-1, 1, "Conv", ["().__class__.__base__", 3]]), "layer 1"),
    "no classes": (changed(nc=0), "nc is 0"),
    "classes as a text": (changed(nc="many"), "nc is 'many'"),
    "scales that are a list": (changed(scales=[1, 2]), "scales"),
    "a scale that is too short": (changed(scales={"n": [1]}), "scales"),
    "no head": (changed(head=None), "head"),
    "a list": ("- 1\n- 2\n", "a list"),
    "a text": ("hello", "a str"),
    "nothing": ("", "NoneType"),
    "aliases of aliases": (f"{BOMB}{TINY}", "without end"),
    "merged aliases": (f"{MERGED}{TINY}", "without end"),
    "deep lists": (f"deep: {'[' * 5000}\n{TINY}", "without end"),
    "too long": (f"{TINY}# {'x' * 300_000}\n", "bytes"),
    "a key twice": (f"{TINY}nc: 5\n", "says nc twice"),
    "a date that is none": (f"{TINY}date: 2021-02-30\n", "is no YAML"),
    "an integer that is none": (f"{TINY}date: !!int x\n", "is no YAML"),
    "an endless integer": (f"{TINY}note: {'9' * 5000}\n", "no"),
    "Python": (f"{TINY}note: !!python/object/apply:os.system ['touch {MARK}']\n", "is no YAML"),
    "NUL": (f"{TINY}\0", "is no YAML"),
}


@pytest.mark.parametrize(("text", "said"), [(row[0], row[1:]) for row in WRONG.values()], ids=WRONG)
def test_a_description_that_is_refused_before_it_is_built(
    text: str, said: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", "0")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("goes online"))
    (tmp_path / "mine.yaml").write_text(text)
    answer = run("inspect", "model=mine.yaml")
    refused(answer, "cannot build a detector from mine.yaml", *said)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"nc: 4\nnote: \xff\xfe")
    refused(run("inspect", f"model={tmp_path / 'mine.yaml'}"), "mine.yaml", "cannot be read")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nn.ReLU()", nn.ReLU),
        ("torch.nn.LeakyReLU(0.1)", nn.LeakyReLU),
        ("nn.Hardtanh(-1, max_val=2.0)", nn.Hardtanh),
        (" nn.SiLU(inplace=True) ", nn.SiLU),
    ],
)
def test_an_activation_that_is_one_is_built(text: str, kind: type[nn.Module], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(changed(activation=text))
    assert type(checkpoint.build(str(tmp_path / "mine.yaml")).model[0].act) is kind
    assert type(Conv.default_act) is nn.SiLU


SHIPPED = sorted(
    path.name for path in Path(ultralytics.__file__).parent.glob("cfg/models/v[35]/*.yaml") if "rtdetr" not in path.name
)


@pytest.mark.parametrize("name", [*SHIPPED, "yolov5n.yaml", "yolov5s6.yaml", "yolov8n.yaml", "yolo11n.yaml"])
def test_what_ultralytics_ships_is_built_on_paper(name: str) -> None:
    description = described(name)
    check_runs(description)
    assert {p.device.type for p in layers_of(description).parameters()} == {"meta"}


def test_a_name_at_a_scale_is_built_at_it() -> None:
    narrow, wide = (layers_of(described(f"yolov5{scale}.yaml"))[0].conv.out_channels for scale in "nx")
    assert (narrow, wide) == (16, 80)


def test_training_from_a_description_looks_at_it_too(tmp_path: Path) -> None:
    """Ultralytics' trainer reads the file a second time."""
    (tmp_path / "mine.yaml").write_text(changed(activation=f"open('{tmp_path / MARK}', 'w')"))
    with pytest.raises(SlimError, match="activation"):
        description(str(tmp_path / "mine.yaml"))
    with pytest.raises(SlimError, match="activation"):
        description(yaml.safe_load((tmp_path / "mine.yaml").read_text()))
    assert not (tmp_path / MARK).exists()
