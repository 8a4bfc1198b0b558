"""Exported files that are broken, each in the places that are read of it."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from fuzzing.case import PLANTED, Case
from fuzzing.pickles import bomb

Writer = Callable[[Path, dict[str, Any]], str]
"""Writes a file that carries this metadata; its name."""


def onnx_file(work: Path, metadata: dict[str, Any]) -> str:
    """One node."""
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")]
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", value[:1], value[1:]))
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=str(text).encode("utf-8", "replace").decode())
    (work / "x.onnx").write_bytes(model.SerializeToString())
    return "x.onnx"


def torchscript_file(work: Path, metadata: dict[str, Any]) -> str:
    """The zip that torch writes, as far as it is read."""
    with zipfile.ZipFile(work / "x.torchscript", "w") as file:
        file.writestr("x/data.pkl", b"\x80\x02N.")
        file.writestr("x/constants.pkl", b"\x80\x02).")
        file.writestr("x/extra/config.txt", json.dumps(metadata))
    return "x.torchscript"


def tflite_file(work: Path, metadata: dict[str, Any]) -> str:
    """A zip behind a model."""
    (work / "x.tflite").write_bytes(b"TFL3" * 100)
    with zipfile.ZipFile(work / "x.tflite", "a") as file:
        file.writestr("temp_meta.txt" if "stride" in metadata else "metadata.json", json.dumps(metadata))
    return "x.tflite"


def engine_file(work: Path, metadata: dict[str, Any]) -> str:
    """The length of a JSON text, the text, and then the engine."""
    text = json.dumps(metadata).encode()
    (work / "x.engine").write_bytes(len(text).to_bytes(4, "little", signed=True) + text + b"engine" * 100)
    return "x.engine"


def folder(work: Path, metadata: dict[str, Any]) -> str:
    """OpenVINO's, NCNN's."""
    (work / "x_openvino_model").mkdir()
    (work / "x_openvino_model" / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    return "x_openvino_model"


WRITERS: dict[str, Writer] = {
    "onnx": onnx_file,
    "torchscript": torchscript_file,
    "tflite": tflite_file,
    "engine": engine_file,
    "openvino": folder,
}

TEXTS = [
    b"", b"\x00", b"\xff\xfe\x00", b"[]", b"3", b"null", b"!!python/object/apply:os.system ['touch fuzzcanary']",
    b"yolo_slim: !!python/name:os.system", b"yolo_slim: {a: 1}", b"yolo_slim: 3", b"yolo_slim: [1]", b"yolo_slim: '{'",
    b"yolo_slim: '[]'", b"yolo_slim: '3'", b"yolo_slim: '" + b"[" * 10**5 + b"'", b"yolo_slim: '" + b"9" * 5000 + b"'",
    b"yolo_slim: 2021-02-30", b"yolo_slim: !!int x", b"a: &a [*a]", b"- " * 3000, b"[" * 5000, b"{" * 5000, b"a: b: c",
    b"? {}\n: 1", b"a: " + b"9" * 5000, b"\t", b"%YAML 9.9\n---\n", b"--- 1\n--- 2\n", b"a: !!binary x", b"<<: 3",
    b"yolo_slim: " + json.dumps(json.dumps({"steps": [{"stage": PLANTED}]})).encode(),
    b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(98, 110)) + b"yolo_slim: *m",
]  # fmt: skip
"""Where metadata stands: YAML, some of it JSON as well."""


def mutated(rng: random.Random, raw: bytes) -> bytes:
    """A few bytes changed, left out, repeated; or cut short."""
    data = bytearray(raw)
    for _ in range(rng.choice([1, 1, 3, 20])):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(5)
        if how == 0 and data:
            data[at - 1] = rng.randrange(256)
        elif how == 1:
            data[at:at] = rng.randbytes(rng.choice([1, 4, 100]))
        elif how == 2:
            del data[at : at + rng.choice([1, 10, 1000])]
        elif how == 3:
            data[at:at] = data[at : at + rng.choice([10, 1000])]
        else:
            del data[at:]
    return bytes(data)


def case(rng: random.Random, work: Path) -> Case:
    """Bytes of a real file, or a text in its place, or lengths that lie."""
    name = rng.choice(list(WRITERS))
    file = WRITERS[name](work, {"yolo_slim": json.dumps({"steps": []}), "stride": 32, "names": {0: "a"}})
    read = work / file if (work / file).is_file() else work / file / "metadata.yaml"
    how = rng.random()
    text = rng.choice(TEXTS)
    if how < 0.5:
        read.write_bytes(mutated(rng, read.read_bytes()))
    elif name == "engine":
        length = rng.choice([-1, 0, 1, len(text), 2**31 - 1, -(2**31)])
        read.write_bytes(length.to_bytes(4, "little", signed=True) + text + b"x" * rng.choice([0, 100]))
    elif name in ("torchscript", "tflite"):
        _zip_of(rng, read, text)
    elif name == "onnx":
        return Case(["inspect", WRITERS[name](work, {"yolo_slim": text.decode("utf-8", "replace")})], "onnx, a text")
    elif how < 0.9:
        read.write_bytes(text)
    else:
        read.unlink()
        _odd_file(rng, read)
    return Case(["inspect", file], f"{name}, {'bytes' if how < 0.5 else text[:40]}")


def _zip_of(rng: random.Random, path: Path, text: bytes) -> None:
    entry = rng.choice(["x/extra/config.txt", "config.txt", "metadata.json", "../metadata.json", "a/b/c/metadata.json"])
    if rng.random() < 0.1:
        path.write_bytes(bomb("metadata.json"))
        return
    with zipfile.ZipFile(path, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])) as file:
        file.writestr(entry, rng.choice([text, b" " * 10**6 + text, b'{"yolo_slim": 3}', b'{"yolo_slim": "3"}',
                                         b'{"yolo_slim": {"a": 1}}', b'{"yolo_slim": "[]"}',
                                         b"[" * 10**5]))  # fmt: skip


def _odd_file(rng: random.Random, path: Path) -> None:
    """Not a file with content."""
    import os

    how = rng.randrange(4)
    if how == 0:
        os.mkfifo(path)
    elif how == 1:
        path.mkdir()
    elif how == 2:
        path.symlink_to(path.name)
    else:
        path.symlink_to("/dev/zero")


def benign(rng: random.Random, work: Path) -> Case:
    """An export by stock Ultralytics: metadata, and no card."""
    name = rng.choice(list(WRITERS))
    file = WRITERS[name](work, {"description": "Ultralytics YOLO", "stride": 32, "names": {0: "a"}})
    return Case(["inspect", file], f"{name} without a card", benign=True)
