"""The model card inside an exported file: carried among the metadata that Ultralytics writes into every format."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from ultralytics import YOLO
from ultralytics.engine.exporter import Exporter

from yolo_slim.errors import SlimError
from yolo_slim.formats.cards import card_of
from yolo_slim.formats.yaml_text import values_in

KEY = "yolo_slim"
LONGEST = 4 << 20
"""Bytes of metadata; with a plan of some hundred widths it has a tenth of a megabyte."""
LARGEST = 4 << 30
"""Bytes of an exported file."""


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
        SlimError: there is nothing, it is of no format that can be read here, or what it carries is no card.
    """
    if not path.exists():
        raise SlimError(f"there is no {path}")
    if not path.is_dir() and not path.is_file():
        raise SlimError(f"expected a file or a folder at {path}, found something else (a pipe, a device)")
    if path.is_file() and path.stat().st_size > LARGEST:
        raise SlimError(f"cannot read the metadata of {path}: it has {path.stat().st_size / 1e9:.1f} GB")
    try:
        metadata = _metadata(path)
        text = metadata.get(KEY) if isinstance(metadata, dict) else _wrong("it is no table of names and values")
        return card_of(_json(text)) if text else {}
    except SlimError as e:
        raise e if str(path) in str(e) else SlimError(f"cannot read the metadata of {path}: it {e}") from e
    except OSError as e:
        raise SlimError(f"cannot read {path}: {e.strerror or e}") from e
    except Exception as e:  # each format has errors of its own
        told = " ".join(str(e).split())[:300]
        raise SlimError(f"cannot read the metadata of {path}: {type(e).__name__}: {told}") from e


def _wrong(what: str) -> Any:
    raise ValueError(what)


def _json(text: Any) -> Any:
    if not isinstance(text, (str, bytes)) or len(text) > LONGEST:
        raise ValueError(f"expected a text of at most {LONGEST:,} characters")
    return json.loads(text)


def _text(path: Path) -> str:
    if path.stat().st_size > LONGEST:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes")
    return path.read_text(encoding="utf-8")


def _metadata(path: Path) -> dict[str, Any]:
    if path.is_dir() and (path / "metadata.yaml").is_file():
        return values_in(_text(path / "metadata.yaml"))
    if path.suffix == ".onnx":
        try:
            import onnx
        except ImportError as e:
            raise SlimError("reading ONNX files needs onnx: pip install yolo-slim[export]") from e
        return {prop.key: prop.value for prop in onnx.load(path, load_external_data=False).metadata_props}
    if path.suffix == ".engine":  # Ultralytics writes the length of a JSON text, the text, and then the engine
        with path.open("rb") as file:
            size = int.from_bytes(file.read(4), "little", signed=True)
            if not 0 < size <= min(LONGEST, path.stat().st_size - 4):
                raise ValueError(f"says that it begins with {size:,} bytes of text")
            return _json(file.read(size))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            named = next((name for name in file.namelist() if Path(name).name in ("config.txt", "metadata.json")), None)
            if named and file.getinfo(named).file_size > LONGEST:
                raise ValueError(f"{named} has {file.getinfo(named).file_size:,} bytes")
            return _json(file.read(named)) if named else {}
    raise SlimError(
        "expected a checkpoint (.pt), a Darknet .cfg (with a section [net]), a model .yaml, an .onnx, .torchscript, "
        ".tflite or .engine file, or a folder with a metadata.yaml (OpenVINO, NCNN); cards of other formats are not "
        f"read here; got {path}"
    )
