"""Pascal VOC sets: boxes checked by hand, what is wrong is named, and nothing is left half-written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from tiny import contents, labels

from yolo_slim.data.voc import writing
from yolo_slim.data.voc.__main__ import main


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
    return main([str(root), "--out", str(out), *more])


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
    made = tmp_path / "deep" / "cells"
    found = contents(made)
    assert set(found) == {
        *("images/train/a.PNG", "images/val/b.PNG", "images/test/c.PNG"),
        *("labels/train/a.txt", "labels/val/b.txt", "labels/test/c.txt", "cells.yaml"),
    }
    assert found["images/train/a.PNG"] == before["JPEGImages/a.PNG"]
    assert (made / "labels/test/c.txt").read_bytes() == b""  # a picture without objects is kept, as background
    assert yaml.safe_load((made / "cells.yaml").read_bytes()) == {
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
    real = writing.shutil.copyfile

    def disk_full_at_b(source: Path, target: Path) -> None:
        if source.stem == "b":
            raise OSError("No space left on device")
        real(source, target)

    monkeypatch.setattr(writing.shutil, "copyfile", disk_full_at_b)
    assert run(root, tmp_path / "data" / "out") == 2
    assert "No space left" in capsys.readouterr().err
    assert not list((tmp_path / "data").iterdir())


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert (
        "python -m yolo_slim.data.voc BCCD_Dataset/BCCD --out data/bccd" in told
        and "usage: python -m yolo_slim.data.voc" in told
    )
