"""Turns a Pascal VOC set into the folders that Ultralytics trains on.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python -m yolo_slim.data.voc BCCD_Dataset/BCCD --out data/bccd --names RBC,WBC,Platelets

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

import os
from collections.abc import Sequence
from pathlib import Path

from yolo_slim.data.voc.reading import check_layout, read_examples, read_splits
from yolo_slim.data.voc.writing import number_classes, summarize, write
from yolo_slim.errors import SlimError
from yolo_slim.scratch import Scratch


def convert(root: Path, out: Path, *, names: Sequence[str] | None = None, seed: int = 0) -> Path:
    """Convert the VOC set in `root` into the new folder `out`, and print what was found.

    Args:
        names: the classes in order; None: by decreasing frequency.
        seed: of the random split, where the set has no split files.

    Returns:
        The path of the data-set YAML.

    Raises:
        SlimError: `out` exists, or the set cannot be used; nothing is written then.
    """
    if os.path.lexists(out):
        raise SlimError(f"{out} exists: give another --out, or remove it")
    check_layout(root)
    splits = read_splits(root, seed)
    examples = read_examples(root, dict.fromkeys(name for part in splits.values() for name in part))
    class_ids = number_classes(examples.values(), names)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Scratch(out.parent) as scratch:
        part = Path(scratch) / out.name  # a folder inside: the temporary one's own would stay closed to other users
        write(part, splits, examples, class_ids, root.resolve())
        part.rename(out)
    summarize(splits, examples, class_ids)
    return out / f"{out.name}.yaml"
