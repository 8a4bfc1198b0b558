"""What is typed in haste: a setting without its section, one value for a list, others' words for a format."""

import pytest
from tiny import refused, run

from yolo_slim.config import read_config


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        pytest.param("epochs=3", "finetune.epochs or", id="the likeliest of several sections"),
        pytest.param("ratio=0.5", "prune.ratio?", id="the only one of that name"),
        pytest.param("target.flops=0.5", "prune.target?", id="a section"),
        pytest.param("flops=0.5", "prune.target.flops or sweep.flops?", id="two steps deep"),
        pytest.param("prune.flops=0.5", "prune.target.flops?", id="within the section that is named"),
        pytest.param("batch=8", "finetune.train.batch or", id="an argument of Ultralytics"),
        pytest.param("sparse_train.lr0=0.1", "sparse_train.train.lr0?", id="of the section that is named"),
        pytest.param("imgs=64", "imgsz?", id="misspelt"),
        pytest.param("criterio=l1", "prune.criterion?", id="misspelt, and without its section"),
        pytest.param("export.format=onnx", "export.formats?", id="one of several"),
    ],
)
def test_a_setting_in_the_wrong_place_is_put_right(word: str, meant: str) -> None:
    refused(run("run", "model=a.pt", word), "unknown setting; did you mean " + meant)


def test_what_is_like_nothing_gets_no_advice() -> None:
    answer = run("run", "model=a.pt", "zzz=3")
    refused(answer, "zzz: unknown setting")
    assert "did you mean" not in answer.err


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("tflite", "litert"),
        ("TensorRT", "engine"),
        ("tensorflow", "saved_model"),
        ("onnyx", "onnx"),
        ("open_vino", "openvino"),
    ],
)
def test_others_words_for_a_format_are_known(word: str, meant: str) -> None:
    refused(run("export", "model=a.pt", f"export.formats={word}"), f"{word}: did you mean {meant}?", "expected some of")


@pytest.mark.parametrize(
    ("word", "section", "name", "values"),
    [
        ("export.formats=onnx", "export", "formats", ["onnx"]),
        ("export.formats=onnx,openvino", "export", "formats", ["onnx", "openvino"]),
        ("export.formats=onnx, ncnn", "export", "formats", ["onnx", "ncnn"]),
        ("export.int8=openvino", "export", "int8", ["openvino"]),
        ("bench.batches=4", "bench", "batches", [4]),
        ("bench.runtimes=torch", "bench", "runtimes", ["torch"]),
        ("sweep.flops=0.5", "sweep", "flops", [0.5]),
        ("sweep.flops=0.8,0.5", "sweep", "flops", [0.8, 0.5]),
        ("sweep.criteria=l1,obs", "sweep", "criteria", ["l1", "obs"]),
        ("prune.exclude=model.0", "prune", "exclude", ["model.0"]),
        ("bench.runtimes=null", "bench", "runtimes", None),
    ],
)
def test_one_value_is_a_list_of_one(word: str, section: str, name: str, values: list) -> None:
    assert getattr(getattr(read_config(None, [word]), section), name) == values


def test_one_method_is_a_list_of_one() -> None:
    assert read_config(None, ["compress=prune"]).compress == ["prune"]


@pytest.mark.parametrize("word", ["export.formats=true", "bench.batches=yes", "export.formats=onnx,", "sweep.flops=a"])
def test_what_is_no_value_of_a_list_is_refused(word: str) -> None:
    refused(run("run", "model=a.pt", word), word.partition("=")[0])
