"""Every stage on images of 1, 3 and 4 channels, and with a Focus stem; images of other channels are refused."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import cv2
import pytest
import yaml
from test_inputs import KINDS, SMALL, detector_of
from tiny import CLASSES, PX, refused, run, script
from ultralytics import YOLO

from yolo_slim import SlimError, SlimTrainer, checkpoint, prune
from yolo_slim.channels import image_channels
from yolo_slim.data.batches import Batches

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory):
    """Kind -> the YAML of a data set with images that it reads: grey ones from colour files, four channels as PNG."""
    made: dict[int, Path] = {}

    def data_for(kind: str) -> Path:
        channels = KINDS[kind][1]
        if channels not in made:
            folder = tmp_path_factory.mktemp("pictures") / "shapes"
            with contextlib.redirect_stdout(io.StringIO()):
                made[channels] = script("make_shapes").draw(folder, train=6, val=3, test=0, imgsz=PX, seed=0)
            for file in folder.rglob("images/**/*.*") if channels == 4 else ():
                bgra = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2BGRA)
                bgra[..., 3] = bgra[..., :3].mean(-1)
                file.unlink()
                cv2.imwrite(str(file.with_suffix(".png")), bgra)
            described = yaml.safe_load(made[channels].read_text())
            made[channels].write_text(yaml.safe_dump({**described, "channels": channels}))
        return made[channels]

    return data_for


@pytest.mark.parametrize("kind", ["grey", "focus"])
def test_stages_without_training(kind, pictures, tmp_path, monkeypatch):
    """inspect, prune, export, bench and report, with a data set of its own."""
    monkeypatch.chdir(tmp_path)
    model = checkpoint.save(detector_of(kind), tmp_path / "best.pt")
    words = [f"model={model}", f"imgsz={PX}", f"data={pictures(kind)}"]
    words += ["sparse_train.epochs=0", "prune.target.flops=0.7", "prune.calib_images=4", "prune.min_channels=2"]
    words += ["prune.round_to=1", "bench.runs=3", "bench.runtimes=[torch,onnxruntime]", "report.latency_runs=3"]
    words += ["export.formats=[onnx]", "export.images=2", "export.map_tolerance=1"]
    for stage in ("inspect", "prune", "export", "bench", "report"):
        answer = run(stage, *words)
        assert answer.code == 0, (stage, answer)
    slim = tmp_path / "runs/slim/pruned/pruned.pt"
    assert "Plan: " in run("inspect", slim, f"imgsz={PX}").out
    assert (tmp_path / "runs/slim/report/report.html").is_file()
    batch = next(iter(Batches(str(pictures(kind)), PX, 2)))
    assert batch.shape[1] == KINDS[kind][1]
    assert YOLO(slim).model(batch)[0].shape == (2, 4 + CLASSES, 80)


@pytest.mark.parametrize("kind", ["four"])
def test_stages_that_train(kind, pictures, tmp_path, monkeypatch):
    """A pull on the scales, a cut, and fine-tuning that learns from the original."""
    monkeypatch.chdir(tmp_path)
    model = checkpoint.save(detector_of(kind), tmp_path / "best.pt")
    words = [f"model={model}", f"imgsz={PX}", f"data={pictures(kind)}", "prune.target.flops=0.7"]
    words += ["prune.calib_images=4", "prune.min_channels=2", "prune.round_to=1"]
    words += [f"{section}={{epochs: 1, train: {{batch: 2}}}}" for section in ("sparse_train", "finetune")]
    words += ["sparse_train.mode=polarization"]  # it compares detectors on an image
    for stage in ("sparse-train", "prune", "finetune"):
        answer = run(stage, *words)
        assert answer.code == 0, (stage, answer)
    assert image_channels(checkpoint.load("runs/slim/finetuned/slim.pt")) == KINDS[kind][1]


@pytest.mark.parametrize(("kind", "stage"), [("four", "sweep"), ("focus", "sensitivity"), ("grey", "prune")])
def test_stages_that_choose(kind, stage, pictures, tmp_path, monkeypatch):
    """A sweep, a scan, and a cut by time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["yolo_slim.measure.latency"], "SETTLE", 0)
    model = checkpoint.save(detector_of(kind), tmp_path / "best.pt")
    words = [f"model={model}", f"imgsz={PX}", f"data={pictures(kind)}", "prune.calib_images=4", "sparse_train.epochs=0"]
    words += {
        "sweep": ["sweep.criteria=[l1]", "sweep.flops=[0.7]", "sweep.workers=1", "prune.min_channels=2"],
        "sensitivity": ["prune.sensitivity.images=2", "prune.sensitivity.ratios=[0.5]"],
        "prune": [
            "prune.target.latency=0.95",
            "latency.runtime=torch",
            "latency.samples=8",
            "latency.runs=3",
            "latency.threads=1",
        ],
    }[stage]
    answer = run(stage, *words)
    assert answer.code == 0, answer


@pytest.mark.parametrize(("kind", "other"), [("grey", "colour"), ("colour", "grey"), ("focus", "four")])
def test_images_of_other_channels_are_refused(kind, other, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (has, reads), data = (KINDS[other][1], KINDS[kind][1]), pictures(other)
    model = checkpoint.save(detector_of(kind), tmp_path / "best.pt")
    words = [f"model={model}", f"imgsz={PX}", f"data={data}", "prune.ratio=0.3", "sparse_train.epochs=0"]
    refused(run("prune", *words), f"reads images of {reads} channels", f"{data} have {has}")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SlimError, match=f"reads images of {reads} channels.*have {has}"):
        prune(detector_of(kind), imgsz=PX, data=data, ratio=0.3)
    slim = checkpoint.save(prune(detector_of(kind), imgsz=PX, ratio=0.3, **SMALL).model, tmp_path / "slim.pt")
    with pytest.raises(SlimError, match=f"reads images of {reads} channels.*have {has}"):
        YOLO(slim).train(trainer=SlimTrainer, data=str(data), epochs=1, imgsz=PX, plots=False, device="cpu")
