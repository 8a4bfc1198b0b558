"""python -m yolo_slim.data.voc ROOT --out FOLDER"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from yolo_slim.data import voc
from yolo_slim.errors import SlimError


def split_names(text: str) -> list[str]:
    """`RBC, WBC` -> ["RBC", "WBC"]."""
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected different class names separated by commas, got {text!r}")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Exit 0: converted; 2: the input is wrong, and nothing was written."""
    parser = argparse.ArgumentParser(
        prog="python -m yolo_slim.data.voc",
        description=voc.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", type=Path, help="folder with JPEGImages, Annotations and ImageSets")
    parser.add_argument("--out", type=Path, required=True, help="new folder, such as data/bccd")
    parser.add_argument("--names", type=split_names, help="classes in order, RBC,WBC,... (default: most boxes first)")
    parser.add_argument("--seed", type=int, default=0, help="of the random split, if any (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        print(voc.convert(args.root, args.out, names=args.names, seed=args.seed))
    except (SlimError, OSError) as e:
        print(f"yolo_slim.data.voc: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
