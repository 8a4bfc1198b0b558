"""What Ultralytics is asked: arguments of its trainer, formats of its exporter, checked before anything runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from yolo_slim.config.values import LARGEST
from yolo_slim.errors import plain, shown

OURS = {
    "model",
    "data",
    "imgsz",
    "device",
    "epochs",
    "seed",
    "project",
    "name",
    "save_dir",
    "resume",
    "task",
    "mode",
    "exist_ok",
}
"""Ultralytics arguments that have a setting of their own here."""


IDLE = {
    *("augment", "cfg", "dnn", "dynamic", "embed", "format", "line_width", "nms", "opset", "optimize", "retina_masks"),
    *("save_conf", "save_crop", "save_frames", "save_json", "save_txt", "show", "show_boxes", "show_conf"),
    *("show_labels", "simplify", "source", "stream_buffer", "tracker", "vid_stride", "visualize", "workspace"),
}
"""Ultralytics arguments for predicting, exporting and reports of its own: in a training they do nothing of use."""

BETWEEN: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("box", "cls", "dfl", "dis", "pose", "kobj", "rle", "angle", "dlog", "dgrad"), (0, 1_000)),
    **dict.fromkeys(("degrees", "shear"), (-180, 180)),
    **dict.fromkeys(("patience", "close_mosaic"), (0, LARGEST)),
    "conf": (0, 0.99),
    "max_det": (1, 100_000),
    "momentum": (0, 0.9999),
    "nbs": (1, 65_536),
    "perspective": (0, 0.01),
    "save_period": (-1, LARGEST),
    "time": (1e-6, 100_000),
    "warmup_epochs": (0, 100_000),
    "workers": (0, 1_024),
}
"""Where Ultralytics looks at the type alone: a number beyond these makes no training, or one that goes astray."""

COMPILE = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
OPTIMIZERS = ("auto", "adam", "adamax", "adamw", "musgd", "nadam", "radam", "rmsprop", "sgd")

ONE_OF: dict[str, tuple[Any, ...]] = {
    "auto_augment": (None, "randaugment", "autoaugment", "augmix"),
    "cache": (True, False, None, "ram", "disk"),
    "compile": (True, False, *COMPILE),
    "copy_paste_mode": ("flip", "mixup"),
    "pretrained": (True,),  # else another detector than the one given is trained
    "quantize": (None, 8, "8", "int8", "w8a8"),
    "save": (True,),  # else a kill costs the whole training, and best.pt is never written
    "split": ("val",),  # else best.pt is chosen on what it has learned from, or on what the report measures
}
"""Where Ultralytics takes anything, and fails or goes on without a word."""

MOST_IMAGES = 4_096
"""Of a batch: weight decay grows with it."""


def check_train_arguments(arguments: dict[str, Any]) -> None:
    """Refuse what Ultralytics would not take, or only until it trains, or without a word, before anything runs.

    Raises:
        ValueError: with every unknown, mistyped, idle or doubly set argument.
    """
    wrong = [f"{plain(key)}: {why}" for key, value in arguments.items() if (why := _why_not(key, value))]
    if not wrong:
        wrong = list(_together(arguments))
    # Ultralytics would install it by itself.
    if str(arguments.get("quantize")) in ("8", "int8", "w8a8") and importlib.util.find_spec("modelopt") is None:
        wrong.append("quantize=8, training for INT8, needs nvidia-modelopt: pip install yolo-slim[qat]")
    if wrong:
        raise ValueError("; ".join(wrong))


def _why_not(key: str, value: Any) -> str | None:
    """What is wrong with one argument."""
    from ultralytics.cfg import check_cfg  # imported late: it takes seconds, and --help does not need it
    from ultralytics.utils import DEFAULT_CFG_DICT

    if key in OURS:
        return "is set by yolo-slim: use its own setting"
    if key not in DEFAULT_CFG_DICT:
        near = get_close_matches(key[:100], sorted(DEFAULT_CFG_DICT.keys() - OURS - IDLE), n=1, cutoff=0.5)
        return "Ultralytics has no such argument" + (f"; did you mean {near[0]}?" if near else "")
    if key in IDLE:
        same = type(value) is type(DEFAULT_CFG_DICT[key]) and value == DEFAULT_CFG_DICT[key]
        return None if same else "does nothing in a training here: leave it out"
    try:
        check_cfg({key: value})
    except (TypeError, ValueError) as e:
        return plain(e)
    return _beyond(key, value) or (SPECIAL[key](value) if key in SPECIAL else None)


def _beyond(key: str, value: Any) -> str | None:
    """What is wrong with an argument that Ultralytics lets pass."""
    from ultralytics.cfg import CFG_FLOAT_KEYS, CFG_FRACTION_KEYS, CFG_INT_KEYS

    if isinstance(value, bool) and key in CFG_FLOAT_KEYS | CFG_FRACTION_KEYS | CFG_INT_KEYS | {"scale"}:
        return f"expected a number, got {value}"
    if key in BETWEEN and value is not None and not BETWEEN[key][0] <= value <= BETWEEN[key][1]:
        low, high = BETWEEN[key]
        return f"expected a number from {low:g} to {high:g}, got {shown(value)}"
    if key in ONE_OF and not any(type(value) is type(each) and value == each for each in ONE_OF[key]):
        return f"expected {' or '.join(map(str, ONE_OF[key]))}, got {shown(value)}"
    return None


def _batch(value: Any) -> str | None:
    whole = isinstance(value, int) and (value == -1 or 1 <= value <= MOST_IMAGES)
    if whole or (isinstance(value, float) and 0 < value < 1):
        return None
    return (
        f"expected a number of images from 1 to {MOST_IMAGES:,}, or for a GPU -1 or the share of its memory to fill, "
        f"got {shown(value)}"
    )


def _optimizer(value: Any) -> str | None:
    return None if value.lower() in OPTIMIZERS else f"expected one of {', '.join(OPTIMIZERS)}, got {shown(value)}"


def _classes(value: Any) -> str | None:
    ids = value if isinstance(value, list) else [value]
    if value is None or (ids and all(type(each) is int and each >= 0 for each in ids) and len(set(ids)) == len(ids)):
        return None
    return f"expected numbers of classes, each once, e.g. [0, 2], got {shown(value)}"


def _freeze(value: Any) -> str | None:
    layers = value if isinstance(value, list) else [value]
    if value is None or all((type(each) is int and each >= 0) for each in layers):
        return None
    if isinstance(value, list) and all(isinstance(each, str) or (type(each) is int and each >= 0) for each in layers):
        return None
    return f"expected a number of layers, or a list of their numbers or names, e.g. [0, 1, 23.cv2], got {shown(value)}"


def _scale(value: Any) -> str | None:
    if not isinstance(value, list) or (not any(isinstance(v, bool) for v in value) and 0 < value[0] <= value[1] <= 10):
        return None
    return f"expected the least and the largest factor, from above 0 to 10, got {shown(value)}"


SPECIAL = {"batch": _batch, "classes": _classes, "freeze": _freeze, "optimizer": _optimizer, "scale": _scale}
"""Arguments with rules of their own: each tells what is wrong with a value."""


def _together(arguments: dict[str, Any]) -> Iterator[str]:
    """What is wrong with arguments that are right one by one."""
    if all(arguments.get(gain) == 0 for gain in ("box", "cls", "dfl")):
        yield "box, cls and dfl are 0: there is nothing left to learn"
    if arguments.get("quantize") and arguments.get("compile"):
        yield "compile: what trains for INT8 cannot be compiled"
    teacher = arguments.get("distill_model")
    if teacher is not None and not (isinstance(teacher, str) and teacher.endswith(".pt") and "://" not in teacher):
        yield f"distill_model: expected the path of a checkpoint (.pt), got {shown(teacher)}"


CALLED = {
    **dict.fromkeys(("tflite", "tensorflow_lite", "lite"), ("litert", "tflite")),
    **dict.fromkeys(("tensorrt", "trt"), ("engine",)),
    **dict.fromkeys(("tensorflow", "tf", "keras"), ("saved_model",)),
    **dict.fromkeys(("mlmodel", "mlpackage", "apple", "ios"), ("coreml",)),
    **dict.fromkeys(("ir", "xml", "intel"), ("openvino",)),
    **dict.fromkeys(("ort", "onnxruntime"), ("onnx",)),
    **dict.fromkeys(("torch", "jit", "script"), ("torchscript",)),
    **dict.fromkeys(("paddlepaddle", "pdmodel"), ("paddle",)),
    **dict.fromkeys(("coral", "edge_tpu"), ("edgetpu",)),
    **dict.fromkeys(("rockchip",), ("rknn",)),
}
"""What others call a format -> Ultralytics' words for it, those of older versions too."""


def check_formats(formats: list[str]) -> None:
    """Refuse what Ultralytics cannot export to, and what cannot be had without installing on the way.

    Raises:
        ValueError: with every unknown format, and those there are.
    """
    if "mnn" in formats:  # MNN/tools/utils/log.py: os.system("pip install ...")
        raise ValueError("mnn: its package runs pip when it is imported, which may break others: `yolo export` has it")
    from ultralytics.engine.exporter import export_formats  # imported late, as above

    known = export_formats()["Argument"][1:]  # the first is PyTorch
    if unknown := [name for name in formats if name not in known]:
        meant = [f"{name}: did you mean {near}?" for name in unknown if (near := _near_format(name, known))]
        raise ValueError(
            f"Ultralytics has no format {', '.join(unknown)}; "
            + " ".join([*meant, f"expected some of {', '.join(known)}"])
        )


def _near_format(name: str, known: list[str]) -> str | None:
    """Ultralytics' word for what somebody calls a format."""
    called = [each for each in CALLED.get(name.lower(), ()) if each in known]
    return next(iter([*called, *get_close_matches(name.lower()[:100], known, n=1)]), None)
