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
from tiny import script

pytest_plugins = ["tiny"]

make_shapes, voc_to_yolo = script("make_shapes"), script("voc_to_yolo")
bench_reconstruct = script("bench_reconstruct")

SMALL = {"train": 6, "val": 3, "test": 3, "imgsz": 64, "seed": 0}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def labels(file: Path) -> np.ndarray:
    """(N, 5): class, cx, cy, w, h."""
    return np.array(file.read_text().split(), float).reshape(-1, 5)


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
# voc_to_yolo


def annotation(*objects: str, size: tuple[int, int] | None = (200, 100)) -> str:
    """An XML text; `size` is what it says of the picture."""
    said = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>no_such.jpg</filename>{said}{''.join(objects)}</annotation>"


def thing(name: str, *edges: object, extra: str = "") -> str:
    """An `object` element; an edge that is None is left out."""
    pairs = zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    box = "".join(f"<{key}>{value}</{key}>" for key, value in pairs if value is not None)
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def voc(root: Path, annotations: dict[str, str], splits: dict[str, str] | None, suffix: str = ".jpg") -> Path:
    """A VOC set whose pictures are all 200 x 100 pixels."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for i, (name, text) in enumerate(annotations.items()):
        (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
        cv2.imwrite(str(root / "JPEGImages" / f"{name}{suffix}"), np.full((100, 200, 3), i, np.uint8))
    for split, names in (splits or {}).items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names.split()) + "\n")
    return root


CELL = thing("cell", 20, 10, 60, 50)


def run(root: Path, out: Path, *more: str) -> int:
    return voc_to_yolo.main([str(root), "--out", str(out), *more])


def test_coordinates_checked_by_hand(tmp_path: Path) -> None:
    """The picture is 200 x 100: x 20..60 has its centre at 40 of 200, y 10..50 at 30 of 100."""
    boxes = CELL, thing("drop", 0, 0, 200, 100), thing("cell", "99.5", 25, "100.5", 75)
    root = voc(tmp_path / "set", {"a": annotation(*boxes), "b": annotation(CELL)}, {"train": "a", "val": "b"})
    assert run(root, tmp_path / "out", "--names", "drop,cell") == 0
    assert (tmp_path / "out/labels/train/a.txt").read_text() == (
        "1 0.200000 0.300000 0.200000 0.400000\n"
        "0 0.500000 0.500000 1.000000 1.000000\n"
        "1 0.500000 0.500000 0.005000 0.500000\n"
    )


def test_the_layout_of_a_converted_set(tmp_path: Path) -> None:
    texts = {"a": annotation(CELL), "b": annotation(CELL), "c": annotation()}
    root = voc(tmp_path / "set", texts, {"train": "a", "val": "b", "test": "c"}, suffix=".PNG")
    before = contents(root)
    assert run(root, tmp_path / "deep" / "cells") == 0
    found = contents(tmp_path / "deep" / "cells")
    assert set(found) == {
        *("images/train/a.PNG", "images/val/b.PNG", "images/test/c.PNG"),
        *("labels/train/a.txt", "labels/val/b.txt", "labels/test/c.txt", "cells.yaml"),
    }
    assert found["images/train/a.PNG"] == before["JPEGImages/a.PNG"]
    assert found["labels/test/c.txt"] == b""  # a picture without objects is kept, as background
    assert yaml.safe_load(found["cells.yaml"]) == {
        **{split: f"images/{split}" for split in ("train", "val", "test")},
        "names": {0: "cell"},
    }
    assert contents(root) == before  # copied, not moved
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["cells"]


def test_classes_come_by_frequency_then_alphabet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["zebra", "ant", "zebra", "bee"]
    text = annotation(*(thing(name, 1, 1, 9, 9) for name in names))
    root = voc(tmp_path / "set", {"a": text, "b": annotation()}, {"train": "a", "val": "b"})
    assert run(root, tmp_path / "out") == 0
    assert yaml.safe_load((tmp_path / "out/out.yaml").read_text())["names"] == {0: "zebra", 1: "ant", 2: "bee"}
    assert "train: 1 pictures, 2 zebra, 1 ant, 1 bee" in capsys.readouterr().out


def test_awkward_class_names_survive_yaml(tmp_path: Path) -> None:
    text = annotation(*(thing(name, 1, 1, 9, 9) for name in ("yes", "1", "à: b")))
    root = voc(tmp_path / "set", {"a": text, "b": annotation()}, {"train": "a", "val": "b"})
    assert run(root, tmp_path / "out") == 0
    found = yaml.safe_load((tmp_path / "out/out.yaml").read_text("utf-8"))["names"]
    assert found == {0: "1", 1: "yes", 2: "à: b"}


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        (thing("cell", 60, 10, 20, 50), "cell xmin=60 ymin=10 xmax=20 ymax=50: min beyond max"),
        (thing("cell", 20, 50, 60, 10), "min beyond max"),
        (thing("cell", 20, 10, 20, 50), "no area within the 200x100 picture"),  # no width
        (thing("cell", 0, 0, 0, 0), "no area within the 200x100 picture"),
        (thing("cell", 210, 10, 260, 50), "no area within the 200x100 picture"),  # beyond the right edge
        (thing("cell", -30, 10, -5, 50), "no area within the 200x100 picture"),  # beyond the left edge
        (thing("cell", "left", 10, 60, 50), "xmin is not a number"),
        (thing("cell", 20, "nan", 60, 50), "ymin is not a number"),
        (thing("cell", 20, 10, "inf", 50), "xmax is not a number"),  # infinity cannot be meant
        (thing("cell", 20, 10, 60, None), "cell xmin=20 ymin=10 xmax=60 ymax=missing: ymax is not a number"),
        ("<object><name>cell</name></object>", "xmin is not a number"),  # no bndbox at all
        (thing("", 20, 10, 60, 50), "no class name"),
    ],
)
def test_degenerate_boxes_are_dropped_and_reported(
    element: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"a": annotation(CELL, element), "b": annotation(CELL)}
    root = voc(tmp_path / "set", texts, {"train": "a", "val": "b"})
    assert run(root, tmp_path / "out") == 0
    assert len(labels(tmp_path / "out/labels/train/a.txt")) == 1
    out = capsys.readouterr().out
    assert "1 boxes dropped:\n  a.xml: " in out and f"{reason}\n" in out
    assert "boxes dropped: 1; clipped to the picture: 0" in out


def test_a_box_over_the_edge_is_clipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"a": annotation(thing("cell", -20, 50, 60, 120)), "b": annotation(CELL)}
    root = voc(tmp_path / "set", texts, {"train": "a", "val": "b"})
    assert run(root, tmp_path / "out") == 0
    assert labels(tmp_path / "out/labels/train/a.txt").tolist() == [[0, 0.15, 0.75, 0.3, 0.5]]
    assert "clipped to the picture: 1" in capsys.readouterr().out


def test_difficult_objects_are_kept_and_parts_of_objects_are_none(tmp_path: Path) -> None:
    part = f"<part>{thing('head', 1, 1, 5, 5).removeprefix('<object>').removesuffix('</object>')}</part>"
    odd = thing("cell", 20, 10, 60, 50, extra=f"<difficult>1</difficult>{part}")
    root = voc(tmp_path / "set", {"a": annotation(odd), "b": annotation()}, {"train": "a", "val": "b"})
    assert run(root, tmp_path / "out") == 0
    assert labels(tmp_path / "out/labels/train/a.txt").tolist() == [[0, 0.2, 0.3, 0.2, 0.4]]


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((0, 0), "a.xml says 0x0, is 200x100"),
        ((100, 200), "a.xml says 100x200, is 200x100"),
        (None, ""),  # says nothing, so nothing is wrong
    ],
)
def test_the_size_comes_from_the_picture(
    size: tuple[int, int] | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"a": annotation(CELL, size=size), "b": annotation(CELL)}
    root = voc(tmp_path / "set", texts, {"train": "a", "val": "b"})
    assert run(root, tmp_path / "out") == 0
    assert (tmp_path / "out/labels/train/a.txt").read_text() == (tmp_path / "out/labels/val/b.txt").read_text()
    out = capsys.readouterr().out
    assert said in out and f"wrong sizes in the XML: {int(bool(said))}" in out


def test_all_unusable_files_are_listed_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {name: annotation(CELL) for name in "abcdef"}
    root = voc(tmp_path / "set", texts, {"train": "a b c d", "val": "e f ../set"})
    (root / "JPEGImages/b.jpg").unlink()
    (root / "JPEGImages/c.jpg").write_bytes(b"no picture")
    (root / "Annotations/d.xml").write_text("<annotation><object>")
    (root / "Annotations/e.xml").unlink()
    (root / "Annotations/f.xml").write_bytes(b"<?xml version='1.0' encoding='klingon'?><annotation/>")
    assert run(root, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "6 files cannot be used" in message and "nothing was written" in message
    assert "b: no picture of that name" in message and "../set: no picture of that name" in message
    assert "c.jpg: OpenCV cannot read" in message
    assert "d.xml: not readable as XML" in message and "f.xml: not readable as XML" in message
    assert "e.xml: no such annotation" in message
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_class_outside_names_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"a": annotation(CELL, thing("drop", 1, 1, 9, 9)), "b": annotation(CELL)}
    root = voc(tmp_path / "set", texts, {"train": "a", "val": "b"})
    assert run(root, tmp_path / "out", "--names", "cells,drop") == 2
    message = capsys.readouterr().err
    assert "cell (2)" in message and "--names cell,drop" in message  # what is unknown, and what to type
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("names", ["cell,cell", "cell,,drop", ""])
def test_names_must_differ(names: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, tmp_path / "out", "--names", names)
    assert stop.value.code == 2


def test_without_split_files_the_set_is_split_by_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = voc(tmp_path / "set", {f"p{i:02d}": annotation(CELL) for i in range(20)}, None)
    for out, seed in {"one": "5", "two": "5", "three": "6"}.items():
        assert run(root, tmp_path / out, "--seed", seed) == 0
    assert "split 80/10/10 at random, seed 5" in capsys.readouterr().out
    files = {out: {name for name in contents(tmp_path / out) if name.startswith("images")} for out in ("one", "two")}
    assert files["one"] == files["two"] != {name for name in contents(tmp_path / "three") if name.startswith("images")}
    counts = [len(list((tmp_path / "one/images" / split).iterdir())) for split in ("train", "val", "test")]
    assert counts == [16, 2, 2]
    assert len({Path(name).name for name in files["one"]}) == 20  # each picture once


@pytest.mark.parametrize("count", [2, 3, 9])
def test_a_tiny_set_still_has_something_to_validate_on(count: int, tmp_path: Path) -> None:
    root = voc(tmp_path / "set", {f"p{i}": annotation(CELL) for i in range(count)}, None)
    assert run(root, tmp_path / "out") == 0
    assert all(list((tmp_path / "out/images" / split).iterdir()) for split in ("train", "val"))


@pytest.mark.parametrize("splits", [{"train": "a"}, {"val": "b"}, {"train": "a", "val": ""}, {"test": "a"}])
def test_train_and_val_are_both_needed(
    splits: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = voc(tmp_path / "set", {"a": annotation(CELL), "b": annotation(CELL)}, splits)
    assert run(root, tmp_path / "out") == 2
    assert "is missing or empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_picture_in_two_splits_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = voc(tmp_path / "set", {"a": annotation(CELL), "b": annotation(CELL)}, {"train": "a b b", "val": "b"})
    assert run(root, tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "1 pictures are in more than one split" in out and "train: 2 pictures, 2 cell" in out


def test_of_two_pictures_of_one_name_the_jpeg_is_taken(tmp_path: Path) -> None:
    root = voc(tmp_path / "set", {"a": annotation(CELL), "b": annotation(CELL)}, {"train": "a", "val": "b"})
    cv2.imwrite(str(root / "JPEGImages/a.png"), np.zeros((10, 10, 3), np.uint8))
    assert run(root, tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out/images/train").iterdir()] == ["a.jpg"]


def test_converting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    root = voc(tmp_path / "set", {"a": annotation(CELL), "b": annotation(CELL)}, {"train": "a", "val": "b"})
    for parent in ("one", "two"):
        assert run(root, tmp_path / parent / "out") == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_existing_target_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = voc(tmp_path / "set", {"a": annotation(CELL), "b": annotation(CELL)}, {"train": "a", "val": "b"})
    (tmp_path / "out").mkdir()
    assert run(root, tmp_path / "out") == 2
    assert "out exists" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_the_folder_above_a_set_is_refused_with_the_right_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = voc(tmp_path / "repo" / "BCCD", {"a": annotation(CELL)}, None)
    assert run(root.parent, tmp_path / "out") == 2
    assert f"did you mean {root}?" in capsys.readouterr().err


def test_a_conversion_cut_short_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = voc(tmp_path / "set", {"a": annotation(CELL), "b": annotation(CELL)}, {"train": "a", "val": "b"})
    real = voc_to_yolo.shutil.copyfile

    def disk_full_at_b(source: Path, target: Path) -> None:
        if source.stem == "b":
            raise OSError("No space left on device")
        real(source, target)

    monkeypatch.setattr(voc_to_yolo.shutil, "copyfile", disk_full_at_b)
    assert run(root, tmp_path / "data" / "out") == 2
    assert "No space left" in capsys.readouterr().err
    assert not list((tmp_path / "data").iterdir())


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


@pytest.mark.parametrize("module", [make_shapes, voc_to_yolo, bench_reconstruct])
def test_help_teaches(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0
    assert f"python scripts/{module.__name__}.py" in capsys.readouterr().out
