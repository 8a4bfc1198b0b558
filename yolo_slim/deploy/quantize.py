"""INT8 after training: scales measured on images, weights by channel, the head's last layers and decode in float.

One scale over boxes (hundreds of pixels) and scores (at most 1) would round every score to zero.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
from torch import nn

from yolo_slim.config import choices
from yolo_slim.config.choices import Registry
from yolo_slim.deploy.exporter import missing, put
from yolo_slim.errors import SlimError, why
from yolo_slim.formats.detector import Detector
from yolo_slim.heads import is_of_head
from yolo_slim.scratch import Scratch

HEAD = "head"


def float_layers(detector: Detector, patterns: Sequence[str]) -> set[str]:
    """The convolutions that stay in float, by module name.

    Args:
        detector: as it was exported.
        patterns: of module names; `head` means the head's last convolutions and those that decode.

    Raises:
        SlimError: a pattern that no convolution goes by.
    """
    names = [name for name, m in detector.named_modules() if isinstance(m, nn.Conv2d)]
    # Ultralytics wraps a convolution that is followed by a norm as `...conv`; bare ones end a branch.
    wrapped = {f"{name}.conv" for name, m in detector.named_modules() if hasattr(m, "conv") and hasattr(m, "act")}
    ends = {name for name in names if is_of_head(detector, name) and name not in wrapped}
    found: set[str] = set()
    for pattern in patterns:
        chosen = ends if pattern == HEAD else {n for n in names if fnmatchcase(n, pattern)}
        if not chosen:
            raise SlimError(
                f"export.int8_float: no convolution goes by {pattern}; expected {HEAD} or patterns like {names[0]}, "
                "model.2.*"
            )
        found |= chosen
    return found


def quantize(format: str, source: Path, target: Path, images: Sequence[np.ndarray], floats: set[str]) -> Path:
    """Write an exported file's INT8 form, whole or not at all.

    Args:
        format: a key of QUANTIZERS.
        source: the file in float, as `export_file` wrote it.
        target: what to write.
        images: (1, C, H, W) in [0, 1], float32, to measure activations on.
        floats: module names of the convolutions that stay in float, with all that follows the head's.

    Raises:
        SlimError: packages are missing, or the quantiser fails.
    """
    if lacking := missing_int8([format]):
        raise SlimError(f"{format} in INT8 needs {', '.join(lacking)}: pip install yolo-slim[export]")
    with Scratch(target.parent) as folder:
        written = Path(folder) / target.name
        try:
            QUANTIZERS[format].write(source, written, images, floats)
        except SlimError:
            raise
        except OSError as e:
            raise SlimError(f"cannot write {target}: {why(e, target)}") from e
        except Exception as e:  # each has errors of its own
            raise SlimError(f"{format} in INT8: {type(e).__name__}: {e}") from e
        put(written, target)
    return target


def _onnx(source: Path, target: Path, images: Sequence[np.ndarray], floats: set[str]) -> None:
    """QDQ by onnxruntime. Convolutions alone: what is between them stays in float, and with it the decode."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    convolutions = {n.name: n.input[1] for n in onnx.load(source).graph.node if n.op_type == "Conv"}
    stay = [name for name, weight in convolutions.items() if _named(weight.removesuffix(".weight"), floats)]
    _check_found(stay, floats)
    quantize_static(
        source,
        target,
        _Reader(images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=stay,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class _Reader:
    """Images as onnxruntime's calibration asks for them."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.images = images
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.left, None)
        return None if image is None else {"images": image}

    def rewind(self) -> None:
        self.left = iter(self.images)


def _openvino(source: Path, target: Path, images: Sequence[np.ndarray], floats: set[str]) -> None:
    """By NNCF, every operator that it knows. What follows the last convolutions in float stays in float as well."""
    import nncf
    import openvino as ov

    logging.getLogger("nncf").setLevel(logging.ERROR)
    file = next(source.glob("*.xml"))
    model = ov.Core().read_model(file)
    stay = _float_nodes(model, floats)
    _check_found(stay, floats)
    small = nncf.quantize(
        model,
        nncf.Dataset(images),
        preset=nncf.QuantizationPreset.MIXED,  # symmetric weights by channel, asymmetric activations
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=sorted(stay)),
    )
    target.mkdir()
    ov.save_model(small, target / file.name, compress_to_fp16=False)
    copyfile(source / "metadata.yaml", target / "metadata.yaml")


def _float_nodes(model: Any, floats: set[str]) -> set[str]:
    """Names of the nodes that stay in float: these convolutions, and what follows those that no other follows."""
    found = {op.get_friendly_name() for op in model.get_ops() if _is_float(op, floats)}
    for op in model.get_ops():
        after = _after(op) if op.get_friendly_name() in found else []
        if all(_is_float(o, floats) for o in after if o.get_type_name() == "Convolution"):
            found |= {o.get_friendly_name() for o in after if o.get_type_name() != "Result"}
    return found


def _is_float(op: Any, floats: set[str]) -> bool:
    module = op.get_friendly_name().partition("/")[0].removeprefix("__module.")  # __module.model.0.conv/aten::...
    return op.get_type_name() == "Convolution" and _named(module, floats)


def _after(op: Any) -> list[Any]:
    """All nodes that an output of this one reaches."""
    found: dict[str, Any] = {}
    todo = [op]
    while todo:
        readers = [i.get_node() for output in todo.pop().outputs() for i in output.get_target_inputs()]
        new = {o.get_friendly_name(): o for o in readers if o.get_friendly_name() not in found}
        found |= new
        todo += new.values()
    return list(found.values())


def _check_found(stay: Collection[str], floats: set[str]) -> None:
    """An exporter that names things otherwise would leave nothing in float, and no word of it."""
    if floats and not stay:
        raise SlimError(
            f"none of the convolutions that are to stay in float is in the exported file by its name, {min(floats)}: "
            "with export.int8_float=[] all are rounded"
        )


def _named(module: str, floats: set[str]) -> bool:
    """Whether a name in a graph, which may have more in front, is that of one of these modules."""
    return any(module == name or module.endswith(f".{name}") for name in floats)


@dataclass(frozen=True)
class Quantizer:
    """How a format is rounded to INT8, and what has to be installed for it."""

    write: Callable[[Path, Path, Sequence[np.ndarray], set[str]], None]  # (source, target, images, floats)
    packages: tuple[str, ...]


QUANTIZERS: Registry[Quantizer] = Registry(
    {
        "onnx": Quantizer(_onnx, ("onnx", "onnxruntime", "onnxslim")),
        "openvino": Quantizer(_openvino, ("openvino", "nncf")),
    },
    (choices.QUANTIZERS, lambda quantizer: True),
)
"""Format -> how it is quantised. One of your own is put in here, and `export.int8` takes its name."""


def missing_int8(formats: Iterable[str]) -> list[str]:
    """The packages that are not installed here, of those that these formats in INT8 need."""
    return missing(formats, {name: each.packages for name, each in QUANTIZERS.items()})
