"""Reads a Pascal VOC set: pictures, boxes of their XML, splits."""

from __future__ import annotations

import math
import random
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2

from yolo_slim.console import console, track
from yolo_slim.errors import SlimError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # in order of preference; case does not matter
SPLITS = ("train", "val", "test")
EDGES = ("xmin", "ymin", "xmax", "ymax")


class Box(NamedTuple):
    """One object that the label file will hold."""

    name: str
    xyxy: tuple[float, float, float, float]  # pixels, within the picture
    clipped: bool


class Example(NamedTuple):
    """One annotated picture."""

    picture: Path
    size_wh: tuple[int, int]  # pixels, as OpenCV and Ultralytics see the picture
    boxes: list[Box]
    dropped: list[str]  # a line for each object without a usable box
    lies: str  # what the XML says of the size, where that is wrong; else empty


def read_splits(root: Path, seed: int) -> dict[str, list[str]]:
    """The names (file names without suffix) in each split that has any."""
    files = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in SPLITS}
    listed = {split: names_in(file) for split, file in files.items() if file.is_file()}
    if not listed:
        return random_splits(root, seed)
    for split in ("train", "val"):
        if not listed.get(split):
            raise SlimError(
                f"{files[split]} is missing or empty, and Ultralytics needs train and val: write it, one picture name "
                f"without suffix a line, or move {files[split].parent} away to have the set split 80/10/10"
            )
    return {split: names for split, names in listed.items() if names}


def names_in(file: Path) -> list[str]:
    """The lines of a split file, each once."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def random_splits(root: Path, seed: int) -> dict[str, list[str]]:
    """80/10/10 of the annotated pictures."""
    names = sorted(file.stem for file in (root / "Annotations").glob("*.xml"))
    if len(names) < 2:
        raise SlimError(f"expected at least two XML files in {root / 'Annotations'}, to train and validate on")
    random.Random(seed).shuffle(names)
    tenth = max(1, len(names) // 10)
    test = tenth if len(names) > 2 else 0
    console.print(
        f"no split files in {root / 'ImageSets' / 'Main'}: split 80/10/10 at random, seed {seed}", markup=False
    )
    parts = {"train": names[tenth + test :], "val": names[:tenth], "test": names[tenth : tenth + test]}
    return {split: sorted(part) for split, part in parts.items() if part}


def read_examples(root: Path, names: Iterable[str]) -> dict[str, Example]:
    """Every annotated picture by its name; refuses the set when any cannot be read, and lists all that cannot."""
    pictures = find_pictures(root / "JPEGImages")
    examples, problems = {}, []
    for name in track(list(names), "reading"):
        try:
            examples[name] = read_example(name, pictures.get(name), root / "Annotations" / f"{name}.xml")
        except SlimError as e:
            problems.append(str(e))
    if problems:
        advice = "repair these, or take their names out of ImageSets/Main/*.txt; nothing was written"
        raise SlimError(f"{listing('files cannot be used', problems)}\n{advice}")
    return examples


def find_pictures(folder: Path) -> dict[str, Path]:
    """Pictures by file name without suffix."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    found.sort(key=lambda path: SUFFIXES.index(path.suffix.lower()), reverse=True)
    return {path.stem: path for path in found}  # of equal names the preferred suffix comes last, and stays


def read_example(name: str, picture: Path | None, annotation: Path) -> Example:
    """One picture with its boxes, in pixels of the picture as it is."""
    if picture is None:
        raise SlimError(f"{name}: no picture of that name in JPEGImages")
    root = read_xml(annotation)
    pixels = cv2.imread(str(picture))
    if pixels is None:
        raise SlimError(f"{picture}: OpenCV cannot read this picture")
    size_wh = pixels.shape[1], pixels.shape[0]
    boxes, dropped = [], []
    for element in root.findall("object"):
        try:
            boxes.append(read_box(element, size_wh))
        except ValueError as e:
            dropped.append(f"{annotation.name}: {describe(element)}: {e}")
    return Example(picture, size_wh, boxes, dropped, lie_about_size(root, size_wh))


def read_xml(file: Path) -> ET.Element:
    """The root element of an annotation."""
    try:
        return ET.parse(file).getroot()
    except FileNotFoundError:
        raise SlimError(f"{file}: no such annotation") from None
    except (ET.ParseError, LookupError, ValueError) as e:  # the latter two: an unknown or unusable encoding
        raise SlimError(f"{file}: not readable as XML: {e}") from None


def read_box(element: ET.Element, size_wh: tuple[int, int]) -> Box:
    """The box of an `object` element, clipped to the picture.

    Raises:
        ValueError: the object has no class or no usable box; says why.
    """
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError("no class name")
    x0, y0, x1, y1 = (number(element.findtext(f"bndbox/{edge}"), edge) for edge in EDGES)
    if x0 > x1 or y0 > y1:
        raise ValueError("min beyond max")
    width, height = size_wh
    inside = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise ValueError(f"no area within the {width}x{height} picture")
    return Box(name, inside, clipped=inside != (x0, y0, x1, y1))


def number(text: str | None, edge: str) -> float:
    """A coordinate; the message of its ValueError names the edge."""
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{edge} is not a number")
    return value


def describe(element: ET.Element) -> str:
    """An object as its XML has it: class and four edges."""
    edges = " ".join(f"{edge}={(element.findtext(f'bndbox/{edge}') or '').strip() or 'missing'}" for edge in EDGES)
    return f"{(element.findtext('name') or '').strip() or 'no name'} {edges}"


def lie_about_size(root: ET.Element, size_wh: tuple[int, int]) -> str:
    """What the XML says, if it says another size than the picture's."""
    said = [(root.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    if not any(said) or said == [str(side) for side in size_wh]:
        return ""
    return f"says {'x'.join(said)}, is {size_wh[0]}x{size_wh[1]}"


def check_layout(root: Path) -> None:
    """Refuse a folder that is not a VOC set; names the one inside it that is."""
    missing = [name for name in ("JPEGImages", "Annotations") if not (root / name).is_dir()]
    if missing:
        inside = sorted(str(path.parent) for path in root.glob("*/Annotations"))
        hint = f"; did you mean {' or '.join(inside)}?" if inside else ""
        raise SlimError(f"expected a VOC set, found no folder {' and no folder '.join(missing)} in {root}{hint}")


def listing(what: str, lines: Sequence[str], most: int | None = None) -> str:
    """How many there are, and all of them or the first few."""
    more = [f"  ... and {len(lines) - most} more"] if most and len(lines) > most else []
    return "\n".join([f"{len(lines)} {what}:", *(f"  {line}" for line in lines[:most]), *more])
