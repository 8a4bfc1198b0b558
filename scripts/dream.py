"""Pictures out of a detector, to recover a slim one on where there is no image at all.

    python scripts/dream.py --model best.pt --images 64 --steps 500 --out dreamt
    yolo-slim run model=best.pt images=dreamt prune.target.flops=0.7 recover.match.seconds=600

What its batch norms remember of the images it was trained on is all there is to go by (`yolo_slim/distill/dream.py`).
Real images, labelled or not, are better by far: take these where none may leave the machine that it was trained on.

Costs a forward and a backward pass of the detector a step: some 2 s for 16 images of 320 px on one core (YOLOv5n), so
500 steps of one batch take a quarter of an hour or more. Stopped at any moment, the same command goes on with the next
batch.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import cv2
import torch

from yolo_slim import checkpoint
from yolo_slim.channels import image_channels
from yolo_slim.distill.dream import RATE, SMOOTH, dream
from yolo_slim.errors import SlimError


def main(words: list[str] | None = None) -> list[tuple[float, float]]:
    """Dream what is not there yet; of each batch, the loss in its first and its last step."""
    args = arguments(words)
    detector = checkpoint.load(args.model).to(args.device).requires_grad_(False)
    if (colours := image_channels(detector, args.imgsz)) not in (1, 3):
        raise SlimError(f"{args.model} looks at images of {colours} channels: pictures have 1 or 3")
    args.out.mkdir(parents=True, exist_ok=True)
    told = []
    for first in range(0, args.images, args.batch):
        files = [args.out / f"dream{i:05d}.png" for i in range(first, min(first + args.batch, args.images))]
        if all(file.exists() for file in files):
            continue
        draw = torch.Generator().manual_seed(args.seed * 1_000_003 + first)
        noise = torch.rand(args.batch, colours, args.imgsz, args.imgsz, generator=draw).to(args.device)
        losses: list[float] = []
        made = dream(
            detector, noise, args.steps, rate=args.rate, smooth=args.smooth, generator=draw,
            on_step=lambda _, loss, losses=losses: losses.append(loss),
        )  # fmt: skip
        for file, image in zip(files, made, strict=False):
            write(file, image)
        told.append((losses[0], losses[-1]))
        print(f"{files[-1].name}: statistics differ by {losses[0]:.3f} at first, {losses[-1]:.3f} in the end")
    return told


def write(file: Path, image: torch.Tensor) -> None:
    """A picture, whole or not at all, of (C, H, W) in [0, 1], red first."""
    pixels = (image.flip(0) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    part = file.with_name(f".{file.stem}.part.png")
    if not cv2.imwrite(str(part), pixels):
        raise SlimError(f"cannot write {part}")
    os.replace(part, file)


def arguments(words: list[str] | None) -> argparse.Namespace:
    """As given on the command line, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="images that have the statistics together; 2 at least")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--smooth", type=float, default=SMOOTH, help="weight of the total variation")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    if min(args.images, args.steps) < 1 or args.batch < 2:
        parser.error("--images and --steps: expected 1 or more, and --batch 2 or more")
    return args


if __name__ == "__main__":
    main()
