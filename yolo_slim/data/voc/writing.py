"""Writes what Ultralytics trains on: pictures, labels and the YAML of a data set; and says what was found."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from yolo_slim.console import console, track
from yolo_slim.data.voc.reading import Example, listing
from yolo_slim.errors import SlimError

MOST_NOTES = 20
"""Lines of one kind that lose nothing; what is lost or broken is listed in full."""


def number_classes(examples: Iterable[Example], names: Sequence[str] | None) -> dict[str, int]:
    """Class name to number: as `names` lists them, else by decreasing frequency."""
    counts = Counter(box.name for example in examples for box in example.boxes)
    if not counts:
        raise SlimError("no XML of the listed pictures holds a usable box")
    by_frequency = sorted(counts, key=lambda name: (-counts[name], name))
    if names is None:
        return {name: i for i, name in enumerate(by_frequency)}
    unknown = [f"{name} ({counts[name]})" for name in by_frequency if name not in names]
    if unknown:
        raise SlimError(
            f"--names {','.join(names)} leaves out classes that the XML files hold (boxes): {', '.join(unknown)}; "
            f"all of them: --names {','.join(by_frequency)}"
        )
    return {name: i for i, name in enumerate(names)}


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
        for name in track(names, f"writing {split}"):
            shutil.copyfile(examples[name].picture, pictures / examples[name].picture.name)
            (labels / f"{name}.txt").write_text(label_text(examples[name], class_ids))
    # No path key: Ultralytics then takes the YAML's own folder, so the set can be moved
    settings = {split: f"images/{split}" for split in splits} | {"names": {i: name for name, i in class_ids.items()}}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    (folder / f"{folder.name}.yaml").write_text(f"# from {origin.name} by yolo_slim.data.voc\n{text}", "utf-8")


def summarize(splits: dict[str, list[str]], examples: dict[str, Example], class_ids: dict[str, int]) -> None:
    """Print what was dropped or doubtful, then the counts."""
    dropped = [line for example in examples.values() for line in example.dropped]
    lies = [f"{name}.xml {example.lies}" for name, example in examples.items() if example.lies]
    times = Counter(name for names in splits.values() for name in names)
    shared = [name for name, n in times.items() if n > 1]
    notes = {
        "boxes dropped": (dropped, None),
        "sizes in the XML are wrong, the picture's own was used": (lies, MOST_NOTES),
        "pictures are in more than one split, so scores will flatter": (shared, MOST_NOTES),
    }
    said = [listing(what, lines, most) for what, (lines, most) in notes.items() if lines]
    for split, names in splits.items():
        counts = Counter(box.name for name in names for box in examples[name].boxes)
        said.append(f"{split}: {len(names)} pictures, " + ", ".join(f"{counts[name]} {name}" for name in class_ids))
    clipped = sum(box.clipped for example in examples.values() for box in example.boxes)
    said.append(
        f"boxes dropped: {len(dropped)}; clipped to the picture: {clipped}; wrong sizes in the XML: {len(lies)}"
    )
    for line in said:
        console.print(line, markup=False)
