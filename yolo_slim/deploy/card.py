"""The model card inside an exported file: carried among the metadata that Ultralytics writes into every format."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import yaml
from ultralytics import YOLO
from ultralytics.engine.exporter import Exporter

from yolo_slim.errors import SlimError

KEY = "yolo_slim"


def carry(model: YOLO, card: dict[str, Any]) -> None:
    """Let this model's exports carry a card of plain values."""

    def add(exporter: Exporter) -> None:
        exporter.metadata[KEY] = json.dumps(card)  # a text: some formats know nothing else

    model.add_callback("on_export_start", add)


def card_in(path: Path) -> dict[str, Any]:
    """The card that an exported file or folder carries; empty: none.

    Reads ONNX, TorchScript (and what else is a zip file, as TFLite's), TensorRT, and the folders that hold a
    metadata.yaml: OpenVINO, NCNN.

    Raises:
        SlimError: there is nothing, or it is of no format that can be read here.
    """
    if not path.exists():
        raise SlimError(f"there is no {path}")
    try:
        text = _metadata(path).get(KEY)
        return json.loads(text) if text else {}
    except SlimError:
        raise
    except Exception as e:  # each format has errors of its own
        raise SlimError(f"cannot read the metadata of {path}: {type(e).__name__}: {e}") from e


def _metadata(path: Path) -> dict[str, Any]:
    if path.is_dir() and (path / "metadata.yaml").is_file():
        return yaml.safe_load((path / "metadata.yaml").read_text(encoding="utf-8"))
    if path.suffix == ".onnx":
        try:
            import onnx
        except ImportError as e:
            raise SlimError("reading ONNX files needs onnx: pip install yolo-slim[export]") from e
        return {prop.key: prop.value for prop in onnx.load(path, load_external_data=False).metadata_props}
    if path.suffix == ".engine":  # Ultralytics writes the length of a JSON text, the text, and then the engine
        with path.open("rb") as file:
            return json.loads(file.read(int.from_bytes(file.read(4), "little", signed=True)))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            named = next((name for name in file.namelist() if Path(name).name in ("config.txt", "metadata.json")), None)
            return json.loads(file.read(named)) if named else {}
    raise SlimError(
        "expected a checkpoint (.pt), a model .yaml, an .onnx, .torchscript, .tflite or .engine file, or a folder with "
        f"a metadata.yaml (OpenVINO, NCNN); cards of other formats are not read here; got {path}"
    )
