"""How long least-squares reconstruction takes, and how much memory it needs.

    python scripts/bench_reconstruct.py --model weights/bccd_v5n.pt --data data/bccd/bccd.yaml --imgsz 320 --images 256

The detector is cut to half of its FLOPs by L1 norms first. Seconds are of the reconstruction alone; on a machine that
does other things too, see those of the processors. Memory is the peak of the whole process, images and torch included.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence

import torch

from yolo_slim.channels import Constraints, cut, reconstruct, select, trace
from yolo_slim.checkpoint import load
from yolo_slim.data.batches import Batches
from yolo_slim.importance import score

PER_GIB = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is in bytes there, else in KiB


def main(argv: Sequence[str] | None = None) -> None:
    """Print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an Ultralytics .pt")
    parser.add_argument("--data", required=True, help="an Ultralytics data-set YAML: its training split is used")
    parser.add_argument("--imgsz", type=int, default=320, help="image side in pixels")
    parser.add_argument("--images", type=int, default=256, help="images to fit on")
    args = parser.parse_args(argv)

    detector = load(args.model)
    wiring = trace(detector, args.imgsz)
    kept = select(wiring, score(detector, wiring, "l1"), Constraints(target={"flops": 0.5})).kept
    slim = cut(detector, wiring, kept)
    batches = Batches(args.data, args.imgsz, args.images)
    images = sum(len(batch) for batch in batches)  # reads them

    layers = 0

    def step(done: int, total: int) -> None:
        nonlocal layers
        layers = done

    wall, busy = time.perf_counter(), time.process_time()
    reconstruct(slim, detector, wiring, kept, batches, step=step)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / PER_GIB
    print(
        f"{layers} layers refitted on {images} images at {args.imgsz} px, {torch.get_num_threads()} threads: "
        f"{wall:.1f} s ({busy:.1f} s of processors), peak memory {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
