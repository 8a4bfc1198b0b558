"""Stages and methods as functions: their arguments are the settings, typed as they are, and do what words do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from tiny import PX, run
from torch import nn

import yolo_slim
from yolo_slim import SlimError, checkpoint, commands, compression, record
from yolo_slim.config import Config, section

pytest_plugins = ["tiny"]

FUNCTIONS = {
    "prune": yolo_slim.prune,
    "finetune": yolo_slim.finetune,
    "sweep": yolo_slim.sweep,
    "export": yolo_slim.export,
    "bench": yolo_slim.bench,
    "report": commands.report,
}
"""Section of settings -> the function that takes them."""

ONLY = {"tables", "calibration", "detector"}
"""Arguments that are no settings: what can be given in Python alone."""


def kinds(annotation: Any) -> set[Any]:
    """What may be given: types, words to choose from; lists and names with values by what is in them."""
    if get_origin(annotation) is Annotated:
        return kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(kinds, get_args(annotation)))
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    if get_origin(annotation) in (list, Sequence):
        return {("several", frozenset(kinds(get_args(annotation)[0])))}
    if get_origin(annotation) in (dict, Mapping):
        return {"named"}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {"named"}
    return {annotation}


def default(value: Any) -> Any:
    """As a signature has it: nothing that could be changed from outside."""
    if isinstance(value, (BaseModel, dict)):
        return None
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_are_the_settings(name: str) -> None:
    function, fields = FUNCTIONS[name], section([name]).model_fields
    given, hints = inspect.signature(function).parameters, get_type_hints(function)
    assert not [p for p in given.values() if p.kind is p.VAR_KEYWORD], "an editor completes nothing of **settings"
    assert fields.keys() <= given.keys()
    for key, field in fields.items():
        assert given[key].kind is inspect.Parameter.KEYWORD_ONLY
        assert given[key].default == default(field.get_default(call_default_factory=True)), key
        assert kinds(hints[key]) - {NoneType} == kinds(field.annotation) - {NoneType}, key
        if given[key].default is not None:
            assert (NoneType in kinds(hints[key])) == (NoneType in kinds(field.annotation)), key
    others = {"runs" if key == "folder" else key for key in given.keys() - fields.keys() - ONLY}
    assert others <= Config.model_fields.keys()


@pytest.mark.parametrize("name", [*FUNCTIONS, "compress", "load", "save", "trace", "cost"])
def test_every_argument_is_explained(name: str) -> None:
    function = FUNCTIONS.get(name) or getattr(compression if name == "compress" else yolo_slim, name)
    text = inspect.getdoc(function)
    missing = [key for key in inspect.signature(function).parameters if f"\n    {key}: " not in text]
    assert missing == []
    assert "Raises:\n    SlimError: " in text


def test_what_is_offered_can_be_had() -> None:
    assert set(yolo_slim.__all__) == yolo_slim._HOME.keys()
    assert all(callable(getattr(yolo_slim, name)) for name in yolo_slim.__all__)


def test_a_package_is_called_as_its_function_and_stays_a_package() -> None:
    assert inspect.signature(yolo_slim.report) == inspect.signature(commands.report)
    assert inspect.signature(yolo_slim.compress) == inspect.signature(compression.compress)
    assert yolo_slim.report.draw and yolo_slim.compress.METHODS


@pytest.fixture(scope="module")
def folder(original: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with one that is pruned."""
    runs = tmp_path_factory.mktemp("runs")
    words = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", "prune.ratio=0.3"]
    answer = run("prune", *words, "prune.criterion=l1", "prune.calib_images=4", "name=mine")
    assert answer.code == 0, answer.err
    return runs


def test_stages_one_after_the_other(folder: Path, original: Path) -> None:
    here = {"name": "mine", "folder": folder}
    tuned = yolo_slim.finetune(**here, epochs=1, distill=None, train={"batch": 4})
    assert isinstance(tuned, record.Record) and tuned.settings["epochs"] == 1
    assert checkpoint.load(folder / "mine" / "finetuned" / tuned.outputs["weights"])
    exported = yolo_slim.export(
        **here, formats=["torchscript"], images=2, map_tolerance=1.0, tolerance=np.float64(0.01)
    )
    assert exported.metrics["files"][0]["format"] == "torchscript"
    timed = yolo_slim.bench(**here, runtimes=["torch"], runs=3)
    assert {row["stage"] for row in timed.metrics["rows"]} == {"original", "slim"}
    told = yolo_slim.report(**here, latency_runs=1)
    assert [row["stage"] for row in told.metrics["rows"]] == ["original", "pruned", "finetuned"]
    assert (folder / "mine" / "report" / "report.html").is_file()


def test_a_sweep(folder: Path, original: Path, data: Path) -> None:
    found = yolo_slim.sweep(
        original,
        data=data,
        imgsz=PX,
        name="swept",
        folder=folder,
        criteria=("l1",),
        flops=(0.8,),
        workers=1,
        prune={"calib_images": 4, "round_to": 4, "min_channels": 4},
        report={"latency_runs": 1},
    )
    assert [row["criterion"] for row in found.metrics["rows"]] == ["l1"]
    assert found.metrics["recommended"]["flops_asked"] == 0.8


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda runs: yolo_slim.finetune(folder=runs, name="none"), "model: needed"),
        (lambda runs: yolo_slim.finetune(folder=runs, name="mine", epochs=0), "finetune.epochs"),
        (lambda runs: yolo_slim.export(folder=runs, name="mine", formats=["tflite"]), "did you mean litert"),
        (lambda runs: yolo_slim.bench(folder=runs, name="mine", runs=1), "bench.runs"),
        (lambda runs: yolo_slim.report(folder=runs, name="mine", split="tset"), r"yolo_slim\.report\(\)"),
    ],
)
def test_what_is_wrong_is_told_as_on_the_command_line(folder: Path, call: Any, said: str) -> None:
    with pytest.raises(SlimError, match=said):
        call(folder)


def test_a_setting_that_there_is_not_is_pythons_to_refuse(loaded: nn.Module) -> None:
    with pytest.raises(TypeError, match="ration"):
        yolo_slim.prune(loaded, ration=0.3)


def test_none_stands_for_the_default_where_a_setting_takes_none(loaded: nn.Module) -> None:
    none = dict.fromkeys(("layers", "sensitivity", "iterations", "depth", "search"))
    kept = yolo_slim.prune(loaded, imgsz=PX, criterion="l1", ratio=0.3, **none).kept
    assert kept == yolo_slim.prune(loaded, imgsz=PX, criterion="l1", ratio=0.3).kept


# ---- methods beside channel pruning ----


def test_methods_in_turn_leave_the_detector_alone(loaded: nn.Module, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    images = torch.rand(4, 3, PX, PX, generator=torch.Generator().manual_seed(0))
    made = yolo_slim.compress(
        loaded, [{"weights": {"sparsity": 0.5}}, {"cluster": {"bits": 4}}], imgsz=PX, calibration=images
    )
    assert len(made.steps) == 2 and "layers" in repr(made)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())
    changed = made.steps[1].plan.layers
    assert changed
    for name in changed:
        weight = made.model.get_submodule(name).weight
        assert weight.unique().numel() <= 17, name
        zeros = made.steps[0].plan.tensors.get(f"{name}.weight")
        assert zeros is None or bool((weight[~zeros] == 0).all()), "what was zero stays zero"
    again = checkpoint.load(yolo_slim.save(made.model, tmp_path / "small.pt"))
    assert checkpoint.is_detector(again)


def test_a_method_by_name_without_images(loaded: nn.Module) -> None:
    made = yolo_slim.compress(loaded, ["quantize"], imgsz=PX)
    assert made.model is made.steps[-1].model and made.steps[0].plan.layers


def test_methods_look_at_a_data_set(original: Path, data: Path) -> None:
    made = yolo_slim.compress(original, [{"weights": {"sparsity": 0.3}}], imgsz=PX, data=data, calib_images=4)
    assert made.steps[0].proof


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ([], "expected methods"),
        (["prune", "weights"], r"yolo_slim\.prune\(\)"),
        (["weigths"], "no method 'weigths'"),
        ([{"weights": {"sparsty": 0.5}}], "did you mean sparsity"),
        ([{"weights": {"sparsity": 0.5, "epochs": 3}}], "trains nothing"),
        ([{"weights": {"sparsity": 0.5, "match": {"steps": 3}}}], "trains nothing"),
        ([{"cluster": {"bits": 4}}, "low_rank"], "comes behind"),
    ],
)
def test_methods_that_cannot_be(loaded: nn.Module, methods: list, said: str) -> None:
    with pytest.raises(SlimError, match=said):
        yolo_slim.compress(loaded, methods, imgsz=PX)
