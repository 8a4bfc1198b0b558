"""Scripts: labels agree with pixels, no folder is ever half-written, and a benchmark measures what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import yaml
from tiny import contents, labels, script

pytest_plugins = ["tiny"]

make_shapes = script("make_shapes")
bench_reconstruct = script("bench_reconstruct")

SMALL = {"train": 6, "val": 3, "test": 3, "imgsz": 64, "seed": 0}


# ---------------------------------------------------------------------------------------------------------------------
# make_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set, drawn once."""
    return make_shapes.draw(tmp_path_factory.mktemp("data") / "shapes", **SMALL).parent


def test_layout(shapes: Path) -> None:
    settings = yaml.safe_load((shapes / "shapes.yaml").read_text())
    assert settings["names"] == {0: "circle", 1: "square", 2: "triangle", 3: "star"}
    assert "path" not in settings  # so that the set can be moved
    for split in ("train", "val", "test"):
        pictures = sorted((shapes / settings[split]).iterdir())
        assert len(pictures) == SMALL[split]
        assert [p.stem for p in pictures] == sorted(p.stem for p in (shapes / "labels" / split).iterdir())
        assert all(cv2.imread(str(p)).shape == (64, 64, 3) for p in pictures)


def test_labels_are_within_the_picture(shapes: Path) -> None:
    rows = np.concatenate([labels(file) for file in (shapes / "labels").rglob("*.txt")])
    centre, size = rows[:, 1:3], rows[:, 3:5]
    assert len(rows) > 0
    assert set(rows[:, 0]) <= {0, 1, 2, 3}
    assert (size > 0).all()
    assert (centre - size / 2 > -2e-6).all() and (centre + size / 2 < 1 + 2e-6).all()  # six decimals


def test_the_same_seed_gives_the_same_bytes(shapes: Path, tmp_path: Path) -> None:
    assert contents(make_shapes.draw(tmp_path / "again", **SMALL).parent) == contents(shapes)


def test_another_seed_gives_other_pictures(shapes: Path, tmp_path: Path) -> None:
    other = contents(make_shapes.draw(tmp_path / "other", **SMALL | {"seed": 1}).parent)
    assert other["images/train/train_00000.jpg"] != contents(shapes)["images/train/train_00000.jpg"]


def test_a_larger_set_begins_with_the_smaller(shapes: Path, tmp_path: Path) -> None:
    more = contents(make_shapes.draw(tmp_path / "more", **SMALL | {"train": 8, "test": 0}).parent)
    pictures = {name: data for name, data in contents(shapes).items() if name.startswith(("images/tr", "images/val"))}
    assert pictures.items() <= more.items()
    assert not any("test" in name for name in more)
    assert "test" not in yaml.safe_load(more["shapes.yaml"])


@pytest.mark.parametrize(
    ("corners", "xyxy"),
    [
        ([(10, 20), (30, 20), (30, 50), (10, 50)], (10, 20, 30, 50)),  # upright: its own corners
        ([(32, 12), (52, 32), (32, 52), (12, 32)], (12, 12, 52, 52)),  # a diamond: its four tips
        ([(-20, 8), (20, 8), (20, 24), (-20, 24)], (0, 8, 20, 24)),  # over the left edge: clipped
        # over the upper edge, with its widest part outside: narrower than its own box, clipped, which is 2..62
        ([(32, -40), (62, -10), (32, 20), (2, -10)], (12, 0, 52, 20)),
        ([(0, 40), (60, 40), (30, 100)], (0, 40, 60, 64)),  # over the lower edge, with its widest part inside
    ],
)
def test_a_box_is_tight(corners: list[tuple[int, int]], xyxy: tuple[int, int, int, int]) -> None:
    box = make_shapes.box_of(make_shapes.fill(np.array(corners, float), 64))
    assert np.abs(box - xyxy).max() <= 1 / make_shapes.FINE


def test_a_label_frames_what_the_picture_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A white shape on black: its pixels begin and end where the label says, in any picture with one shape."""
    monkeypatch.setattr(
        make_shapes,
        "paint",
        lambda rng, imgsz, *, saturation, **_: np.full((imgsz, imgsz, 3), 255.0 * (saturation > 0.5)),
    )
    for seed in range(20):
        shapes = make_shapes.compose(np.random.default_rng(seed), 64)[-1:]
        picture = make_shapes.render(np.random.default_rng(seed), shapes, 64)
        shown = picture.min(axis=2) > 50  # also pixels that the shape covers by a third
        for line in make_shapes.label_text(shapes, 64).splitlines():
            cx, cy, w, h = (64 * float(value) for value in line.split()[1:])
            x, y = np.flatnonzero(shown.any(axis=0)), np.flatnonzero(shown.any(axis=1))
            seen = np.array([x[0], y[0], x[-1] + 1, y[-1] + 1])
            # The tip of a star is thinner than a pixel, and fades over the last two or three
            assert np.abs(seen - [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]).max() <= (
                3 if line[0] in "23" else 1
            )


def test_every_shape_can_be_seen() -> None:
    for seed in range(30):
        shapes = make_shapes.compose(np.random.default_rng(seed), 64)
        for i, shape in enumerate(shapes):
            covered = np.any([other.mask for other in shapes[i + 1 :]], axis=0) & shape.mask
            assert covered.sum() <= shape.mask.sum() * (1 - make_shapes.LEAST_SEEN) + 1


def test_some_pictures_hold_nothing_and_all_classes_occur() -> None:
    scenes = [make_shapes.compose(np.random.default_rng([0, i]), 32) for i in range(150)]
    counts = [len(scene) for scene in scenes]
    assert 1 <= counts.count(0) <= 25
    assert max(counts) == make_shapes.MOST_SHAPES
    assert {shape.class_id for scene in scenes for shape in scene} == {0, 1, 2, 3}


def test_drawing_twice_does_nothing(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in shapes.rglob("*")}
    counts = ["--train", "6", "--val", "3", "--test", "3"]
    assert make_shapes.main(["--out", str(shapes), *counts, "--imgsz", "64"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in shapes.rglob("*")} == before


def test_other_arguments_are_refused_and_both_are_named(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(shapes)
    assert make_shapes.main(["--out", str(shapes), "--train", "7"]) == 2
    message = capsys.readouterr().err
    assert '"train": 6' in message and '"train": 7' in message and "another --out" in message
    assert contents(shapes) == before


@pytest.mark.parametrize("record", [None, "{", json.dumps({"train": 6})])
def test_a_folder_of_something_else_is_refused(
    record: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if record is not None:
        (tmp_path / make_shapes.RECORD).write_text(record)
    assert make_shapes.main(["--out", str(tmp_path)]) == 2
    assert f"{tmp_path} exists" in capsys.readouterr().err


def test_all_wrong_arguments_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_shapes.main(["--out", str(tmp_path / "x"), "--val", "0", "--imgsz", "8"]) == 2
    message = capsys.readouterr().err
    assert "val must be at least 1, got 0" in message and "imgsz must be at least 32, got 8" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_drawing_cut_short_leaves_nothing(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = make_shapes.label_text, []

    def stop_at_the_fourth(*args: object) -> str:
        calls.append(args)
        if len(calls) == 4:
            raise error("stop")
        return real(*args)

    monkeypatch.setattr(make_shapes, "label_text", stop_at_the_fourth)
    with pytest.raises(error):
        make_shapes.draw(tmp_path / "shapes", **SMALL)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# bench_reconstruct


def test_the_benchmark_of_reconstruction(shapes: Path, original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", original, "--data", shapes / "shapes.yaml", "--imgsz", "64", "--images", "5"]
    bench_reconstruct.main([str(word) for word in words])
    said = re.search(
        r"^(\d+) layers refitted on 5 images at 64 px, \d+ threads: [\d.]+ s \([\d.]+ s of processors\), "
        r"peak memory ([\d.]+) GiB$",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    assert said and int(said[1]) > 5 and 0.05 < float(said[2]) < 100


@pytest.mark.parametrize("module", [make_shapes, bench_reconstruct])
def test_help_teaches(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0
    assert f"python scripts/{module.__name__}.py" in capsys.readouterr().out
