"""A detector of a cfg becomes an ONNX file by Ultralytics' exporter, and the script that asks OpenCV agrees."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from darknet_nets import conv, detector, head, image, net, section, written
from tiny import script
from ultralytics.engine.exporter import Exporter

from yolo_slim.channels import cut, trace

CORPUS = Path(__file__).parent / "corpus" / "darknet"
TIGHT = 1e-5
# Ultralytics takes a file below 0.1 MB for a failure.
WIDE = (
    net(64, 32)
    + conv(64, 3, 2, "swish")
    + conv(64, 3, 2, "mish", norm=False)
    + section("maxpool", size=2, stride=1)
    + section("maxpool", size=4, stride=2)
    + section("route", layers=-1, groups=2, group_id=1)
    + head("0,1,2,3", activation="logistic", scale_x_y=2.0, new_coords=1)
    + section("route", layers=0)
    + conv(64, 3, 2)
    + head(scale_x_y=1.2)
)


def exported(model, folder, **arguments):
    """The path of an ONNX file."""
    pytest.importorskip("onnxruntime")
    model = copy.deepcopy(model)
    model.pt_path = str(folder / "net.pt")
    return Exporter(overrides={"format": "onnx", "imgsz": [32, 64], "device": "cpu", "batch": 1, **arguments})(
        model=model
    )


def answer(file, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"images": x.numpy()})
    return torch.from_numpy(out)


def differs(a, b):
    """Boxes and scores apart."""
    return max(float((a[:, i] - b[:, i]).abs().max() / b[:, i].abs().max()) for i in (slice(0, 4), slice(4, None)))


@pytest.mark.parametrize("slim", [False, True])
def test_an_onnx_file_answers_the_same(tmp_path, slim):
    """At other sizes and batches as well, if it is made so; the detector is left as it was."""
    model = detector(WIDE)
    if slim:
        found = trace(model, (32, 64))
        kept = np.ones(found.n_channels, bool)
        for group in found.free:
            kept[group.channels[:8]] = False
        model = cut(model, found, kept)
    file = exported(model, tmp_path, dynamic=True)
    assert model.model[-1].export is False and hasattr(model.model[0], "bn")
    for x in (image(model), torch.rand(2, 3, 64, 96)):
        with torch.no_grad():
            assert differs(answer(file, x), model(x)[0]) < TIGHT


def test_nms_in_the_file(tmp_path):
    """Rows of x y x y, score and class."""
    model = detector(WIDE)
    (rows,) = answer(exported(model, tmp_path, nms=True, conf=0.01), image(model))
    rows = rows[rows[:, 4] > 0]
    assert rows.shape[1] == 6 and len(rows) and (rows[:, 2:4] > rows[:, :2]).all()
    with torch.no_grad():
        scores = model(image(model))[0][:, 4:]
    assert float(rows[0, 4]) == pytest.approx(float(scores.max()), abs=1e-5)


def test_the_script_compares_with_kept_answers(tmp_path, capsys):
    """`--told`, without OpenCV: maps, boxes and scores agree; with others' answers it says so."""
    pytest.importorskip("onnxruntime")
    path = written(tmp_path, WIDE)
    told = answers_of(path)
    np.savez(tmp_path / "told.npz", **told)
    check = script("check_darknet")
    assert check.main([str(path), "--told", str(tmp_path / "told.npz"), "--ratio", "0.3", "--runs", "1"]) == 0
    assert "give --python" in capsys.readouterr().out
    np.savez(tmp_path / "told.npz", **{**told, "raw0": told["raw0"] + 0.1})
    assert check.main([str(path), "--told", str(tmp_path / "told.npz"), "--ratio", "--runs", "1"]) == 1


def answers_of(path):
    """What OpenCV would say of a net without batch norms' eps in the way: our own answers in its layout."""
    from yolo_slim.formats import darknet

    model = darknet.load(path)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.eps = 1e-6
    x = image(model)
    with torch.no_grad():
        boxes, maps = model(x)
    told, at = {"image": x.numpy()}, 0
    for i, raw in enumerate(maps):
        anchors, (h, w) = raw.shape[1] // 8, raw.shape[2:]
        rows = boxes[0, :, at : at + anchors * h * w].view(7, anchors, h, w).permute(2, 3, 1, 0).flatten(0, 2)
        at += anchors * h * w
        box = rows[:, :4] / torch.tensor([64, 32, 64, 32])
        scores = rows[:, 4:] * (rows[:, 4:] > 0.2)
        told[f"raw{i}"] = raw.permute(0, 2, 3, 1).numpy()
        told[f"decoded{i}"] = torch.cat([box, torch.ones(len(rows), 1), scores], 1).numpy()
    return told


@pytest.mark.skipif("OPENCV4_PYTHON" not in os.environ, reason="OPENCV4_PYTHON names no Python with OpenCV 4")
def test_opencv_runs_what_was_cut():
    """The table of `scripts/check_darknet.py`, for the nets of the corpus."""
    cfgs = [str(CORPUS / f"{name}.cfg") for name in ("v3-tiny", "v4-parts")]
    command = [
        sys.executable,
        "scripts/check_darknet.py",
        *cfgs,
        "--python",
        os.environ["OPENCV4_PYTHON"],
        "--no-onnx",
        "--round-to",
        "1",
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
