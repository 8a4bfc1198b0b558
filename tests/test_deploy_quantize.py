"""INT8: which layers stay in float, and what the rest costs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import numpy_helper
from tiny import PX, contents
from torch import nn
from ultralytics import YOLO

from yolo_slim import checkpoint
from yolo_slim.data.batches import Batches
from yolo_slim.deploy import file_mb, float_layers, opened, quantize, suffix
from yolo_slim.errors import SlimError

pytest_plugins = ["tiny"]

FORMATS = ["onnx", "openvino"]
ENDS = {f"model.10.{end}" for end in ("cv2.0.2", "cv2.1.2", "cv3.0.2", "cv3.1.2", "dfl.conv")}

Quantised = Callable[..., Path]


@pytest.fixture(scope="module")
def detector(seeing: Path) -> nn.Module:
    return checkpoint.load(seeing)


@pytest.fixture(scope="module")
def images(data: Path) -> list[np.ndarray]:
    return [batch.numpy() for batch in Batches(str(data), PX, 8, batch=1)]


@pytest.fixture(scope="module")
def quantised(
    detector: nn.Module,
    exported: Callable[[str], Path],
    images: list[np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> Quantised:
    made: dict[tuple, Path] = {}

    def get(format: str, *floats: str) -> Path:
        if (format, floats) not in made:
            target = tmp_path_factory.mktemp("int8") / f"slim_int8{suffix(format)}"
            kept = float_layers(detector, floats)
            made[format, floats] = quantize(format, exported(format), target, images, kept)
        return made[format, floats]

    return get


def test_the_head_is_its_last_convolutions_and_those_that_decode(detector: nn.Module) -> None:
    assert float_layers(detector, ["head"]) == ENDS


def test_layers_are_named_by_patterns(detector: nn.Module) -> None:
    assert float_layers(detector, ["model.0.*", "model.1.conv"]) == {"model.0.conv", "model.1.conv"}
    assert float_layers(detector, []) == set()


def test_a_pattern_that_names_nothing_is_refused(detector: nn.Module) -> None:
    with pytest.raises(SlimError, match=r"export.int8_float: no convolution goes by model.99.\*; expected head"):
        float_layers(detector, ["head", "model.99.*"])


Outputs = Callable[[Path], np.ndarray]


@pytest.fixture(scope="module")
def outputs(images: list[np.ndarray]) -> Outputs:
    """A file's raw outputs for all images: (images, 4 + K, N)."""

    def of(file: Path) -> np.ndarray:
        run = opened(file, "onnxruntime" if file.suffix == ".onnx" else "openvino", 1)
        return np.concatenate([run(image)[0] for image in images])

    return of


@pytest.mark.parametrize("format", FORMATS)
def test_a_quantised_file_is_smaller_and_close(
    format: str, quantised: Quantised, exported: Callable[[str], Path], outputs: Outputs
) -> None:
    file = quantised(format, "head")
    assert file_mb(file) < 0.75 * file_mb(exported(format))
    assert {path.name for path in file.parent.iterdir()} == {file.name}
    scores, expected = outputs(file)[:, 4:].ravel(), outputs(exported(format))[:, 4:].ravel()
    assert np.abs(scores - expected).max() > 1e-3, "it was not rounded"
    assert np.corrcoef(scores, expected)[0, 1] > 0.6  # an untrained detector is not made to be rounded


@pytest.mark.parametrize("format", FORMATS)
def test_rounding_the_head_too_moves_boxes_further(
    format: str, quantised: Quantised, exported: Callable[[str], Path], outputs: Outputs
) -> None:
    """What the default is for."""
    boxes = outputs(exported(format))[:, :4]
    kept, lost = (np.abs(outputs(quantised(format, *floats))[:, :4] - boxes).mean() for floats in (("head",), ()))
    assert lost > 1.1 * kept


@pytest.mark.parametrize("format", FORMATS)
def test_stock_ultralytics_takes_the_file(format: str, quantised: Quantised, detector: nn.Module) -> None:
    file = quantised(format, "head")
    (found,) = YOLO(file, task="detect").predict(np.full((PX, PX, 3), 127, np.uint8), imgsz=PX, conf=0.001)
    assert found.names == detector.names
    assert len(found.boxes)


def in_float(file: Path) -> set[str]:
    """The convolutions of an .onnx file whose weights are floating-point numbers, by module name."""
    graph = onnx.load(file).graph
    weights = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    return {n.input[1].removesuffix(".weight") for n in graph.node if n.op_type == "Conv" and n.input[1] in weights}


@pytest.mark.parametrize("floats", [("head",), ("head", "model.0.*"), ()], ids=str)
def test_onnx_keeps_in_float_what_is_named(floats: tuple[str, ...], quantised: Quantised, detector: nn.Module) -> None:
    assert in_float(quantised("onnx", *floats)) == float_layers(detector, floats)


def test_onnx_weights_have_a_scale_for_each_channel(quantised: Quantised, detector: nn.Module) -> None:
    graph = onnx.load(quantised("onnx", "head")).graph
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    reader = next(n for n in graph.node if n.op_type == "DequantizeLinear" and "model.1.conv.weight" in n.input[0])
    assert scales[reader.input[1]].shape == (detector.get_submodule("model.1.conv").out_channels,)


def test_openvino_keeps_the_decode_in_float(quantised: Quantised) -> None:
    """Behind the head's last convolutions nothing is rounded."""
    model = openvino.Core().read_model(quantised("openvino", "head") / "slim.xml")
    convolutions = {op for op in model.get_ops() if op.get_type_name() == "Convolution"}
    plain = [op for op in convolutions if op.input_value(1).get_node().get_type_name() == "Constant"]
    assert {op.get_friendly_name().partition("/")[0].removeprefix("__module.") for op in plain} == ENDS
    todo, types = [*model.get_results()], set()
    while todo:  # back from the end to the convolutions
        op = todo.pop()
        types.add(op.get_type_name())
        if op.get_type_name() not in ("Convolution", "ShapeOf") or "dfl" in op.get_friendly_name():
            todo += [value.get_node() for value in op.input_values()]
    assert {"Sigmoid", "Softmax"} <= types
    assert "FakeQuantize" not in types


@pytest.mark.parametrize("format", FORMATS)
def test_names_that_are_not_in_the_file_are_refused(
    format: str, exported: Callable[[str], Path], images: list[np.ndarray], tmp_path: Path
) -> None:
    """Else an exporter that names things otherwise would leave the head's decode in INT8, and no word of it."""
    with pytest.raises(SlimError, match=r"none of the convolutions .* model\.99\.conv: .*export\.int8_float=\[\]"):
        quantize(format, exported(format), tmp_path / f"slim{suffix(format)}", images[:1], {"model.99.conv"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_source_that_cannot_be_read_leaves_nothing(format: str, tmp_path: Path, images: list[np.ndarray]) -> None:
    source, out = tmp_path / f"slim{suffix(format)}", tmp_path / "out"
    out.mkdir()
    with pytest.raises(SlimError):
        quantize(format, source, out / f"slim_int8{suffix(format)}", images, set())
    assert contents(out) == {} and list(out.iterdir()) == []
