"""Turns a Pascal VOC set into the folders that Ultralytics trains on.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python scripts/voc_to_yolo.py BCCD_Dataset/BCCD --out data/bccd --names RBC,WBC,Platelets

From                                                  to
    JPEGImages/NAME.jpg                                   images/{train,val,test}/NAME.jpg, copied
    Annotations/NAME.xml                                  labels/{train,val,test}/NAME.txt
    ImageSets/Main/{train,val,test}.txt                   bccd.yaml, named like the folder

Classes are numbered as --names lists them; without it, the class with the most boxes comes first, equals by the
alphabet. Objects marked difficult are kept. test.txt may be missing; if all three are, the annotated pictures are
split 80/10/10 at random, the same way for the same --seed.

Coordinates are taken as they stand, as distances in pixels from the picture's left and top edge: the box's centre is
(xmin + xmax) / 2, its width xmax - xmin. (VOC's own files count pixels from 1 and include the last one, so their
boxes start one pixel late; most tools that write VOC files today do not, and no file says which it does.)
Boxes are clipped to the picture. One without area, without numbers, or with min beyond max is dropped and reported.

The size of a picture is read from the picture, never from its XML; where they differ, that is reported.
A missing or unreadable picture or XML stops the conversion before anything is written, with the list of all of them.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import yaml
from rich.console import Console
from rich.progress import track

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # in order of preference; case does not matter
SPLITS = ("train", "val", "test")
EDGES = ("xmin", "ymin", "xmax", "ymax")
MOST_NOTES = 20  # of one kind, that lose nothing; what is lost or broken is listed in full


class VocError(Exception):
    """The input is wrong, and here is what to do about it."""


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


# ---------------------------------------------------------------------------------------------------------------------
# Read


def read_splits(root: Path, seed: int) -> dict[str, list[str]]:
    """The names (file names without suffix) in each split that has any."""
    files = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in SPLITS}
    listed = {split: names_in(file) for split, file in files.items() if file.is_file()}
    if not listed:
        return random_splits(root, seed)
    for split in ("train", "val"):
        if not listed.get(split):
            raise VocError(
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
        raise VocError(f"expected at least two XML files in {root / 'Annotations'}, to train and validate on")
    random.Random(seed).shuffle(names)
    tenth = max(1, len(names) // 10)
    test = tenth if len(names) > 2 else 0
    print(f"no split files in {root / 'ImageSets' / 'Main'}: split 80/10/10 at random, seed {seed}")
    parts = {"train": names[tenth + test :], "val": names[:tenth], "test": names[tenth : tenth + test]}
    return {split: sorted(part) for split, part in parts.items() if part}


def read_examples(root: Path, names: Iterable[str]) -> dict[str, Example]:
    """Every annotated picture by its name; refuses the set when any cannot be read, and lists all that cannot."""
    pictures = find_pictures(root / "JPEGImages")
    examples, problems = {}, []
    for name in track(list(names), "reading", console=Console(stderr=True)):
        try:
            examples[name] = read_example(name, pictures.get(name), root / "Annotations" / f"{name}.xml")
        except VocError as e:
            problems.append(str(e))
    if problems:
        advice = "repair these, or take their names out of ImageSets/Main/*.txt; nothing was written"
        raise VocError(f"{listing('files cannot be used', problems)}\n{advice}")
    return examples


def find_pictures(folder: Path) -> dict[str, Path]:
    """Pictures by file name without suffix."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    found.sort(key=lambda path: SUFFIXES.index(path.suffix.lower()), reverse=True)
    return {path.stem: path for path in found}  # of equal names the preferred suffix comes last, and stays


def read_example(name: str, picture: Path | None, annotation: Path) -> Example:
    """One picture with its boxes, in pixels of the picture as it is."""
    if picture is None:
        raise VocError(f"{name}: no picture of that name in JPEGImages")
    root = read_xml(annotation)
    pixels = cv2.imread(str(picture))
    if pixels is None:
        raise VocError(f"{picture}: OpenCV cannot read this picture")
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
        raise VocError(f"{file}: no such annotation") from None
    except (ET.ParseError, LookupError, ValueError) as e:  # the latter two: an unknown or unusable encoding
        raise VocError(f"{file}: not readable as XML: {e}") from None


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


# ---------------------------------------------------------------------------------------------------------------------
# Classes


def number_classes(examples: Iterable[Example], names: Sequence[str] | None) -> dict[str, int]:
    """Class name to number: as `names` lists them, else by decreasing frequency."""
    counts = Counter(box.name for example in examples for box in example.boxes)
    if not counts:
        raise VocError("no XML of the listed pictures holds a usable box")
    by_frequency = sorted(counts, key=lambda name: (-counts[name], name))
    if names is None:
        return {name: i for i, name in enumerate(by_frequency)}
    unknown = [f"{name} ({counts[name]})" for name in by_frequency if name not in names]
    if unknown:
        raise VocError(
            f"--names {','.join(names)} leaves out classes that the XML files hold (boxes): {', '.join(unknown)}; "
            f"all of them: --names {','.join(by_frequency)}"
        )
    return {name: i for i, name in enumerate(names)}


def split_names(text: str) -> list[str]:
    """`RBC, WBC` -> ["RBC", "WBC"]."""
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected different class names separated by commas, got {text!r}")
    return names


# ---------------------------------------------------------------------------------------------------------------------
# Write


def label_text(example: Example, class_ids: dict[str, int]) -> str:
    """Ultralytics' label file: a line `class cx cy w h` a box, in picture widths and heights."""
    width, height = example.size_wh
    lines = []
    for name, (x0, y0, x1, y1), _ in example.boxes:
        cx, cy, w, h = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
        lines.append(f"{class_ids[name]} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}\n")
    return "".join(lines)


def write(
    folder: Path, splits: dict[str, list[str]], examples: dict[str, Example], class_ids: dict[str, int], origin: Path
) -> None:
    """Pictures, labels and the YAML, into a new folder."""
    for split, names in splits.items():
        pictures, labels = folder / "images" / split, folder / "labels" / split
        pictures.mkdir(parents=True)
        labels.mkdir(parents=True)
        for name in track(names, f"writing {split}", console=Console(stderr=True)):
            shutil.copyfile(examples[name].picture, pictures / examples[name].picture.name)
            (labels / f"{name}.txt").write_text(label_text(examples[name], class_ids))
    # No path key: Ultralytics then takes the YAML's own folder, so the set can be moved
    settings = {split: f"images/{split}" for split in splits} | {"names": {i: name for name, i in class_ids.items()}}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    (folder / f"{folder.name}.yaml").write_text(f"# from {origin.name} by scripts/voc_to_yolo.py\n{text}", "utf-8")


def convert(root: Path, out: Path, *, names: Sequence[str] | None = None, seed: int = 0) -> Path:
    """Convert the VOC set in `root` into the new folder `out`, and print what was found.

    Args:
        names: the classes in order; None: by decreasing frequency.
        seed: of the random split, where the set has no split files.

    Returns:
        The path of the data-set YAML.

    Raises:
        VocError: `out` exists, or the set cannot be used; nothing is written then.
    """
    if os.path.lexists(out):
        raise VocError(f"{out} exists: give another --out, or remove it")
    check_layout(root)
    splits = read_splits(root, seed)
    examples = read_examples(root, dict.fromkeys(name for part in splits.values() for name in part))
    class_ids = number_classes(examples.values(), names)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        part = Path(scratch) / out.name  # a folder inside: mkdtemp's own would stay closed to other users
        write(part, splits, examples, class_ids, root.resolve())
        part.rename(out)
    summarize(splits, examples, class_ids)
    return out / f"{out.name}.yaml"


def check_layout(root: Path) -> None:
    """Refuse a folder that is not a VOC set; names the one inside it that is."""
    missing = [name for name in ("JPEGImages", "Annotations") if not (root / name).is_dir()]
    if missing:
        inside = sorted(str(path.parent) for path in root.glob("*/Annotations"))
        hint = f"; did you mean {' or '.join(inside)}?" if inside else ""
        raise VocError(f"expected a VOC set, found no folder {' and no folder '.join(missing)} in {root}{hint}")


# ---------------------------------------------------------------------------------------------------------------------
# Report


def listing(what: str, lines: Sequence[str], most: int | None = None) -> str:
    """How many there are, and all of them or the first few."""
    more = [f"  ... and {len(lines) - most} more"] if most and len(lines) > most else []
    return "\n".join([f"{len(lines)} {what}:", *(f"  {line}" for line in lines[:most]), *more])


def summarize(splits: dict[str, list[str]], examples: dict[str, Example], class_ids: dict[str, int]) -> None:
    """Print what was dropped or doubtful, then the counts."""
    dropped = [line for example in examples.values() for line in example.dropped]
    lies = [f"{name}.xml {example.lies}" for name, example in examples.items() if example.lies]
    times = Counter(name for names in splits.values() for name in names)
    shared = [name for name, n in times.items() if n > 1]
    if dropped:
        print(listing("boxes dropped", dropped))
    if lies:
        print(listing("sizes in the XML are wrong, the picture's own was used", lies, MOST_NOTES))
    if shared:
        print(listing("pictures are in more than one split, so scores will flatter", shared, MOST_NOTES))
    for split, names in splits.items():
        counts = Counter(box.name for name in names for box in examples[name].boxes)
        print(f"{split}: {len(names)} pictures, " + ", ".join(f"{counts[name]} {name}" for name in class_ids))
    clipped = sum(box.clipped for example in examples.values() for box in example.boxes)
    print(f"boxes dropped: {len(dropped)}; clipped to the picture: {clipped}; wrong sizes in the XML: {len(lies)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit 0: converted; 2: the input is wrong, and nothing was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with JPEGImages, Annotations and ImageSets")
    parser.add_argument("--out", type=Path, required=True, help="new folder, such as data/bccd")
    parser.add_argument("--names", type=split_names, help="classes in order, RBC,WBC,... (default: most boxes first)")
    parser.add_argument("--seed", type=int, default=0, help="of the random split, if any (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        print(convert(args.root, args.out, names=args.names, seed=args.seed))
    except (VocError, OSError) as e:
        print(f"voc_to_yolo: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
