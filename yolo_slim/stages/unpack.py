"""Unpack: the checkpoint in a packed file, as it was; nothing is written that is no detector."""

from __future__ import annotations

from pathlib import Path

from yolo_slim import checkpoint, packing
from yolo_slim.config import Complete
from yolo_slim.console import console
from yolo_slim.errors import SlimError, plain, why
from yolo_slim.scratch import Scratch, temporary
from yolo_slim.stages.pack import target_of


def unpack(config: Complete) -> Path:
    """The packed detector of `model` as the checkpoint `unpack.to`, the same that was packed byte for byte."""
    source = Path(config.model)
    if source.suffix != packing.SUFFIX:
        raise SlimError(
            f"expected a packed detector, {packing.SUFFIX}, got {plain(source)}: `yolo-slim pack` makes one"
        )
    target = target_of(config.unpack.to, source, ".pt", "unpack.to")
    try:
        packed = source.read_bytes()
    except OSError as e:
        raise SlimError(f"cannot read {plain(source)}: {why(e, source)}") from e
    try:
        content = packing.unpack(packed)
    except SlimError as e:
        raise SlimError(f"{plain(source)} {e}") from e
    if not config.unpack.to and target.exists() and target.read_bytes() != content:
        raise SlimError(f"{plain(target)} is there and is another file: say where to write with unpack.to=...")
    with temporary(), Scratch() as folder:
        tried = Path(folder) / "unpacked.pt"
        tried.write_bytes(content)
        checkpoint.load(tried)  # what is no detector is not written
    packing.write(content, target)
    console.print(f"{source} {len(packed):,} bytes -> {target} {len(content):,} bytes, as it was packed", markup=False)
    return target
