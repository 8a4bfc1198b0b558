"""Draws a small detection data set, so that every stage can be tried within minutes and without a download.

    python scripts/make_shapes.py                                      # data/shapes: 320 + 64 + 64 pictures of 192 px
    python scripts/make_shapes.py --out data/tiny --train 64 --imgsz 128 --seed 1

Circles, squares, triangles and stars: turned, slanted, striped or speckled, partly over one another and over the edge
of the picture, in any colour, on a textured ground. A few pictures show the ground alone.

A shape is a mask, finer than the picture: averaged down it is what one sees, and where it begins and ends is its box.
So no label can disagree with its picture. Boxes cover the whole shape within the picture, also the part that another
shape hides, which is at most a third.

The same arguments draw the same pictures, byte for byte under one version of OpenCV and NumPy, and picture number 7
stays what it is when there are more of them.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml
from rich.console import Console
from rich.progress import track

FINE = 4  # mask pixels along one picture pixel: boxes are exact to a quarter of a pixel
SHARE_EMPTY = 0.06  # of the pictures
MOST_SHAPES = 5  # in one picture
RADIUS = (0.08, 0.24)  # smallest and largest, in picture sides
LEAST_INSIDE = 0.6  # of a shape's area, within the picture
LEAST_SEEN = 2 / 3  # of a shape's area within the picture, left uncovered by later shapes
TRIES = 20  # to find a place for one more shape, before doing without it
DRAWING = 1  # raise it when the same arguments come to draw other pictures
RECORD = "drawn.json"  # the arguments, inside the folder


class ShapesError(Exception):
    """The arguments are wrong, and here is what to do about it."""


class Shape(NamedTuple):
    """One object of a picture."""

    class_id: int
    mask: np.ndarray  # (FINE * imgsz, FINE * imgsz) bool


# ---------------------------------------------------------------------------------------------------------------------
# Shapes


def around(radii: Sequence[float]) -> np.ndarray:
    """Corners at these distances from the origin, at equal angles: (N, 2) xy."""
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.asarray(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


OUTLINES = {
    "circle": around([1.0] * 64),
    "square": around([1.0] * 4),
    "triangle": around([1.0] * 3),
    "star": around([1.0, 0.42] * 5),
}
"""The classes, in order, each within the unit circle."""


def scatter(rng: np.random.Generator, outline: np.ndarray, imgsz: int) -> np.ndarray:
    """The outline somewhere in the picture, slanted, turned and scaled: (N, 2) xy in picture pixels."""
    slanted = outline * [1.0, rng.uniform(0.75, 1.0)]
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    radius = np.exp(rng.uniform(*np.log(RADIUS)))  # as many twice as large, whatever the size
    return imgsz * (slanted @ turn * radius + rng.uniform(0, 1, size=2))


def fill(corners: np.ndarray, imgsz: int) -> np.ndarray:
    """The part of a polygon, (N, 2) xy in picture pixels, within the picture: (FINE * imgsz, FINE * imgsz) bool."""
    mask = np.zeros((FINE * imgsz, FINE * imgsz), np.uint8)
    # OpenCV's integers are pixel centres, ours are pixel edges; 4 bits of fraction
    cv2.fillPoly(mask, [np.round((corners * FINE - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def box_of(mask: np.ndarray) -> np.ndarray:
    """The tight box of a mask that is not empty: (4,) xyxy in picture pixels."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / FINE


def compose(rng: np.random.Generator, imgsz: int) -> list[Shape]:
    """The shapes of one picture, from the lowest to the topmost."""
    wanted = 0 if rng.random() < SHARE_EMPTY else rng.integers(1, MOST_SHAPES + 1)
    shapes: list[Shape] = []
    for _ in range(wanted):
        class_id = int(rng.integers(len(OUTLINES)))
        for _ in range(TRIES):
            corners = scatter(rng, list(OUTLINES.values())[class_id], imgsz)
            more = [*shapes, Shape(class_id, fill(corners, imgsz))]
            if is_inside(corners, more[-1].mask) and all_seen(more):
                shapes = more
                break
    return shapes


def is_inside(corners: np.ndarray, mask: np.ndarray) -> bool:
    """Whether enough of a polygon falls within the picture."""
    return mask.sum() >= LEAST_INSIDE * cv2.contourArea((corners * FINE).astype(np.float32))


def all_seen(shapes: Sequence[Shape]) -> bool:
    """Whether enough of every shape is left uncovered by those after it."""
    covered = np.zeros_like(shapes[0].mask)
    for shape in reversed(shapes):
        if (shape.mask & ~covered).sum() < LEAST_SEEN * shape.mask.sum():
            return False
        covered = covered | shape.mask
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Paint: a texture is a field (imgsz, imgsz) in 0..1 between two colours


def ramp(rng: np.random.Generator, imgsz: int) -> np.ndarray:
    """From 0 to 1 across the picture, in any direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:imgsz, 0:imgsz] / imgsz - 0.5
    return np.clip((x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(2) + 0.5, 0, 1)


def stripes(rng: np.random.Generator, imgsz: int) -> np.ndarray:
    """Soft stripes in any direction."""
    return 0.5 + 0.5 * np.sin(2 * np.pi * ramp(rng, imgsz) * rng.uniform(6, 24))


def checks(rng: np.random.Generator, imgsz: int) -> np.ndarray:
    """Two stripings, one upon the other."""
    return np.abs(stripes(rng, imgsz) - stripes(rng, imgsz))


def clouds(rng: np.random.Generator, imgsz: int) -> np.ndarray:
    """Smooth noise, from broad clouds to speckle."""
    cells = int(rng.integers(4, 33))
    return np.clip(cv2.resize(rng.random((cells, cells)), (imgsz, imgsz), interpolation=cv2.INTER_CUBIC), 0, 1)


TEXTURES = (ramp, stripes, checks, clouds)


def paint(
    rng: np.random.Generator, imgsz: int, *, hue: float, saturation: float, values: tuple[float, float]
) -> np.ndarray:
    """A textured surface between two brightnesses (HSV values) of one colour: (imgsz, imgsz, 3) BGR in 0..255."""
    field = TEXTURES[rng.integers(len(TEXTURES))](rng, imgsz)[..., None]
    dark, light = (255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))[::-1] for value in values)
    return dark + field * (light - dark)


def render(rng: np.random.Generator, shapes: Sequence[Shape], imgsz: int) -> np.ndarray:
    """The picture of these shapes: (imgsz, imgsz, 3) uint8 BGR."""
    value = rng.uniform(0.15, 0.75)
    picture = paint(rng, imgsz, hue=rng.random(), saturation=rng.uniform(0, 0.3), values=(value, value + 0.2))
    hue = rng.random()
    for i, shape in enumerate(shapes):
        # Steps of the golden section keep the hues of one picture apart, however many there are
        values = rng.uniform(0.5, 0.7), rng.uniform(0.8, 1.0)
        surface = paint(rng, imgsz, hue=hue + 0.618 * i, saturation=rng.uniform(0.6, 1.0), values=values)
        alpha = cv2.resize(shape.mask.astype(np.float32), (imgsz, imgsz), interpolation=cv2.INTER_AREA)[..., None]
        picture += alpha * (surface - picture)
    light = 0.8 + 0.3 * ramp(rng, imgsz)[..., None]
    grain = rng.normal(0, 4, picture.shape)
    return np.clip(picture * light + grain, 0, 255).round().astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# The set


def label_text(shapes: Sequence[Shape], imgsz: int) -> str:
    """Ultralytics' label file: a line `class cx cy w h` a shape, in picture sides."""
    lines = []
    for shape in shapes:
        x0, y0, x1, y1 = box_of(shape.mask) / imgsz
        lines.append(f"{shape.class_id} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}\n")
    return "".join(lines)


def examples(split_number: int, count: int, *, imgsz: int, seed: int) -> Iterator[tuple[np.ndarray, str]]:
    """Picture and label text, one by one, each from a generator of its own."""
    for i in range(count):
        rng = np.random.default_rng([seed, split_number, i])
        shapes = compose(rng, imgsz)
        yield render(rng, shapes, imgsz), label_text(shapes, imgsz)


def draw(out: Path, *, train: int, val: int, test: int, imgsz: int, seed: int) -> Path:
    """Draw the set into the new folder `out`; one already drawn with the same arguments stays as it is.

    Args:
        train, val, test: pictures in each split; without any, `test` is left out.
        imgsz: side of the square pictures, in pixels.

    Returns:
        The path of the data-set YAML.

    Raises:
        ShapesError: an argument out of range, or `out` exists and holds something else.
    """
    out = Path(out)
    recipe = {"train": train, "val": val, "test": test, "imgsz": imgsz, "seed": seed, "drawing": DRAWING}
    check(recipe)
    if is_drawn(out, recipe):
        print(f"{out} is already drawn with these arguments: nothing to do")
        return out / "shapes.yaml"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        part = Path(scratch) / out.name  # a folder inside: mkdtemp's own would stay closed to other users
        write(part, {"train": train, "val": val, "test": test}, imgsz=imgsz, seed=seed)
        (part / RECORD).write_text(json.dumps(recipe) + "\n")
        part.rename(out)
    return out / "shapes.yaml"


def check(recipe: dict[str, Any]) -> None:
    """Refuse arguments that cannot be drawn, all of them at once."""
    least = {"train": 1, "val": 1, "test": 0, "imgsz": 32, "seed": 0}
    wrong = [f"{name} must be at least {low}, got {recipe[name]}" for name, low in least.items() if recipe[name] < low]
    if wrong:
        raise ShapesError("; ".join(wrong))


def is_drawn(out: Path, recipe: dict[str, Any]) -> bool:
    """Whether `out` holds this very set; refuses a path that holds anything else."""
    if not os.path.lexists(out):
        return False
    try:
        found = json.loads((out / RECORD).read_text())
    except (OSError, ValueError):
        raise ShapesError(f"{out} exists and was not drawn by this script: give another --out, or remove it") from None
    if found != recipe:
        raise ShapesError(
            f"{out} exists and was drawn with other arguments: give another --out, or remove it\n"
            f"  there: {json.dumps(found)}\n  asked: {json.dumps(recipe)}"
        )
    return True


def write(folder: Path, counts: dict[str, int], *, imgsz: int, seed: int) -> None:
    """Pictures, labels and the YAML, into a new folder."""
    splits = [split for split, count in counts.items() if count]
    for split_number, split in enumerate(splits):
        pictures, labels = folder / "images" / split, folder / "labels" / split
        pictures.mkdir(parents=True)
        labels.mkdir(parents=True)
        drawn = examples(split_number, counts[split], imgsz=imgsz, seed=seed)
        progress = track(drawn, f"drawing {split}", total=counts[split], console=Console(stderr=True))
        for i, (picture, label) in enumerate(progress):
            path = pictures / f"{split}_{i:05d}.jpg"
            if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 92]):
                raise OSError(f"cannot write {path}")
            (labels / f"{path.stem}.txt").write_text(label)
    # No path key: Ultralytics then takes the YAML's own folder, so the set can be moved
    settings = {split: f"images/{split}" for split in splits} | {"names": dict(enumerate(OUTLINES))}
    (folder / "shapes.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit 0: the set is there; 2: the arguments are wrong, or nothing could be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/shapes"), help="new folder (default: %(default)s)")
    parser.add_argument("--train", type=int, default=320, help="pictures to train on (default: %(default)s)")
    parser.add_argument("--val", type=int, default=64, help="pictures to validate on (default: %(default)s)")
    parser.add_argument("--test", type=int, default=64, help="pictures to test on, may be 0 (default: %(default)s)")
    parser.add_argument("--imgsz", type=int, default=192, help="side of a picture in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other pictures (default: %(default)s)")
    try:
        print(draw(**vars(parser.parse_args(argv))))
    except (ShapesError, OSError) as e:
        print(f"make_shapes: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
