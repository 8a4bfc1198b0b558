"""Ultralytics' train arguments: what would fail or go astray hours later is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import PX, contents, refused, run
from torch import nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_slim.config import check
from yolo_slim.config.arguments import BETWEEN, IDLE, ONE_OF, OPTIMIZERS, OURS, SPECIAL
from yolo_slim.errors import SlimError
from yolo_slim.training.arguments import check_against, check_last_batch

pytest_plugins = ["tiny"]

NAN, INF = float("nan"), float("inf")

WRONG = {  # argument -> values that training would fail with, go astray with, or take no notice of
    "time": [0, -1, NAN, "x"],
    "patience": [-1, "x", 1.5, True],
    "batch": [0, -2, NAN, INF, 1.5, 16.0, "x", True, 10**9, [16]],
    "save": [False, "no"],
    "save_period": [-2, "x", 10**12],
    "cache": ["yes please", 3, "RAMDISK", [True]],
    "workers": [-1, 10**9, "x"],
    "pretrained": [False, "other.pt", "http://example.com/a.pt", 1],
    "cls_remap": ["x"],
    "optimizer": ["x", 3, None, ["SGD"], "AdaGrad"],
    "verbose": ["x"],
    "deterministic": ["x", 1],
    "single_cls": ["x"],
    "rect": ["x"],
    "cos_lr": ["no", 1.5],
    "close_mosaic": [-3, "x", 0.5],
    "amp": ["bf17", 1, None],
    "fraction": [0, -0.5, 1.5, NAN, "x", True, []],
    "profile": ["x"],
    "freeze": [-1, True, "x", [True], [-1], [1.5], 2.5],
    "multi_scale": [-0.1, 2, NAN, "x"],
    "compile": ["fast", 3, ["default"]],
    "channels_last": ["x"],
    "overlap_mask": ["x"],
    "mask_ratio": [0, "x"],
    "dropout": [2, NAN],
    "val": ["x"],
    "split": ["test", "train", "x", 3],
    "conf": [1, -0.1, NAN, "x"],
    "iou": [1.5, NAN, True],
    "max_det": [0, "x", 10**9],
    "quantize": [16, "fp16", 7, "w8a16"],
    "plots": ["x"],
    "agnostic_nms": ["x"],
    "classes": [-1, "x", [], [True], [0, 0], [1.0], ["a"]],
    "lr0": [-1, 2, NAN, True, "x"],
    "lrf": [-1, 2, NAN],
    "momentum": [1, -0.1, NAN],
    "weight_decay": [-1, 2, NAN],
    "warmup_epochs": [-1, INF, NAN, "x"],
    "warmup_momentum": [2, NAN],
    "warmup_bias_lr": [-1, NAN],
    "distill_model": ["http://example.com/a.pt", 3, "a.onnx", True],
    **{gain: [NAN, INF, -1, 1e9, "x", True] for gain in ("dis", "box", "cls", "dfl", "pose", "kobj", "rle", "angle")},
    **{gain: [NAN, INF, -1] for gain in ("dlog", "dgrad", "dlam")},
    "cls_pw": [-1, 2, NAN],
    "nbs": [0, -1, 10**9, "x"],
    **{share: [-0.1, 1.5, NAN, "x", True] for share in ("hsv_h", "hsv_s", "hsv_v", "translate", "flipud", "fliplr")},
    **{share: [-0.1, 1.5, NAN] for share in ("bgr", "mosaic", "mixup", "cutmix", "copy_paste", "erasing")},
    "degrees": [INF, 400, NAN, True],
    "shear": [INF, 400, NAN],
    "scale": [NAN, 2, [1], [2, 1], [NAN, 1], [0, 1], [True, 2], "x", True],
    "perspective": [0.5, -0.1, NAN],
    "copy_paste_mode": ["x", 3],
    "auto_augment": ["x", 3],
    **{idle: ["x", 12345, not DEFAULT_CFG_DICT[idle]] for idle in IDLE},
}

RIGHT = {
    "time": [0.5, None],
    "patience": [0, 100],
    "batch": [1, 16, -1, 0.7],
    "cache": [True, False, "ram", "disk", None],
    "optimizer": [*OPTIMIZERS, "SGD", "AdamW", "RMSProp"],
    "amp": [True, False, "bf16", "fp32"],
    "fraction": [0.5, 1, 20, [0.5, 0.5]],
    "freeze": [None, 0, 10, [0, 1], ["23.cv2"]],
    "compile": [False, True, "default"],
    "classes": [None, 0, [0, 2]],
    "scale": [0.5, [0.5, 1.5]],
    "warmup_epochs": [0, 0.5],
    "momentum": [0, 0.9],
    "conf": [None, 0.001],
    "degrees": [10, -10.5],
    "close_mosaic": [0, 10],
    "save_period": [-1, 1],
    "auto_augment": [None, "randaugment"],
}


def told(stage: str, **arguments: object) -> str:
    """What is said of train arguments."""
    with pytest.raises(SlimError) as caught:
        check({"model": "a.pt", stage: {"train": arguments}})
    return str(caught.value)


def test_every_argument_of_ultralytics_has_wrong_values_here() -> None:
    assert WRONG.keys() | OURS - {"save_dir"} == DEFAULT_CFG_DICT.keys()
    assert not WRONG.keys() & OURS
    assert {*BETWEEN, *ONE_OF, *SPECIAL, *IDLE} <= DEFAULT_CFG_DICT.keys()


@pytest.mark.parametrize("key", sorted(WRONG))
def test_wrong_values_are_refused_with_their_argument(key: str) -> None:
    for value in WRONG[key]:
        text = told("original", **{key: value})
        assert "original.train" in text
        assert key in text, f"{key}={value!r}: {text}"
        assert len(text.splitlines()) == 2


@pytest.mark.parametrize("key", sorted(DEFAULT_CFG_DICT.keys() - OURS))
def test_ultralytics_own_defaults_are_right(key: str) -> None:
    value = DEFAULT_CFG_DICT[key]
    for stage in ("original", "sparse_train", "finetune"):
        config = check({"model": "a.pt", stage: {"train": {key: value}}})
        assert getattr(config, stage).train == {key: value}


@pytest.mark.parametrize("key", RIGHT)
def test_right_values_are_taken(key: str) -> None:
    for value in RIGHT[key]:
        assert check({"model": "a.pt", "finetune": {"train": {key: value}}}).finetune.train == {key: value}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_is_one_of_ultralytics(name: str) -> None:
    trainer = SimpleNamespace(args=SimpleNamespace(lr0=0.01), data={"nc": 4})
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model.model = [nn.Identity()]
    assert BaseTrainer.build_optimizer(trainer, model, name, 0.01, 0.9, 0.0005).param_groups


@pytest.mark.parametrize(
    ("stage", "arguments", "words"),
    [
        pytest.param("finetune", {"box": 0, "cls": 0, "dfl": 0.0}, "nothing left to learn", id="no loss"),
        pytest.param("sparse_train", {"time": 1}, "train.time", id="a schedule by epochs, a training by the clock"),
    ],
)
def test_arguments_that_do_not_go_together(stage: str, arguments: dict, words: str) -> None:
    assert words in told(stage, **arguments)


@pytest.mark.parametrize(("batch", "fits"), [(4, True), (16, True), (1, False), (3, False), (-1, False), (0.5, False)])
def test_a_batch_is_shared_among_gpus(batch: float, fits: bool) -> None:
    settings = {"model": "a.pt", "device": "0,1", "finetune": {"train": {"batch": batch}}}
    if fits:
        assert check(settings).finetune.train["batch"] == batch
    else:
        with pytest.raises(SlimError, match=r"finetune\.train\.batch.*2 GPUs"):
            check(settings)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"classes": [99]}, ["train.classes", "0 to 3", "99"], id="a class that is not there"),
        pytest.param({"classes": 4}, ["train.classes", "0 to 3"], id="one too many"),
        pytest.param({"single_cls": True}, ["train.single_cls", "tells 4 apart"], id="one class of four"),
        pytest.param({"freeze": 1_000_000}, ["train.freeze", "11 layers", "1000000"], id="a million layers"),
        pytest.param({"freeze": 12}, ["train.freeze", "11 layers"], id="one layer too many"),
        pytest.param({"freeze": [3, 11]}, ["train.freeze", "11 layers"], id="a layer beyond the last"),
        pytest.param({"freeze": ["23.cv2"]}, ["train.freeze", "'23.cv2'"], id="a name of another detector"),
        pytest.param({"freeze": 11}, ["train.freeze=11", "nothing to train"], id="all of them"),
    ],
)
def test_what_the_detector_does_not_have(detector: nn.Module, arguments: dict, words: list[str]) -> None:
    with pytest.raises(SlimError) as caught:
        check_against(detector, arguments)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"classes": [0, 3]},
        {"freeze": 10},
        {"freeze": [0, "10.cv2"]},
        {"freeze": 0},
        {"freeze": []},
        {"freeze": None},
    ],
)
def test_what_the_detector_has(detector: nn.Module, arguments: dict) -> None:
    check_against(detector, arguments)
    assert all(p.requires_grad for p in detector.parameters())


@pytest.mark.parametrize(
    ("images", "imgsz", "arguments", "fits"),
    [
        (9, 32, {"batch": 8}, False),
        (8, 32, {"batch": 8}, True),
        (8, 32, {"batch": 1}, False),
        (9, 64, {"batch": 8}, True),
        (9, 64, {"batch": 8, "multi_scale": 0.5}, False),
        (17, 640, {"multi_scale": 1.0}, False),
        (9, 32, {"batch": -1}, True),
        (18, 32, {"batch": 8, "fraction": 0.5}, False),
        (100, 32, {"batch": 8, "fraction": 17}, False),
        (1, 32, {"batch": 8}, False),
    ],
)
def test_batch_norm_needs_more_than_one_value(images: int, imgsz: int, arguments: dict, fits: bool) -> None:
    if fits:
        check_last_batch(images, imgsz, arguments)
        return
    with pytest.raises(SlimError, match="a last batch of one image"):
        check_last_batch(images, imgsz, arguments)


@pytest.mark.parametrize("stage", ["sparse_train", "finetune"])
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("freeze=1000000", ["train.freeze", "11 layers"]),
        ("classes=[99]", ["train.classes", "99"]),
        ("optimizer=x", ["train", "optimizer", "AdamW".lower()]),
        ("batch=.nan", ["train", "batch"]),
        ("distill_model=none.pt", ["none.pt"]),
    ],
)
def test_run_checks_arguments_before_any_stage(
    original: Path, data: Path, tmp_path: Path, stage: str, argument: str, words: list[str]
) -> None:
    settings = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", "prune.ratio=0.3"]
    answer = run("run", *settings, "finetune.distill=null", f"{stage}.train.{argument}")
    refused(answer, *words)
    assert contents(tmp_path) == {}


def test_a_training_stage_alone_looks_first(original: Path, data: Path, tmp_path: Path) -> None:
    settings = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", "prune.ratio=0.3"]
    answer = run(
        "sparse-train",
        *settings,
        "sparse_train.epochs=1",
        "sparse_train.min_steps=0",
        "sparse_train.train.freeze=1000000",
    )
    refused(answer, "train.freeze", "11 layers")
    assert not (tmp_path / "runs" / "slim" / "sparse" / "train").exists()
