"""Export the slim detector, run the file on real images, and fail if it does not agree with PyTorch."""

from __future__ import annotations

from pathlib import Path

from yolo_slim import checkpoint
from yolo_slim.config import Config
from yolo_slim.deploy import compare_onnx, export_onnx
from yolo_slim.errors import SlimError
from yolo_slim.record import Record
from yolo_slim.stages.common import console, finished, lineage, run_stage, split_of
from yolo_slim.training.calibrate import Batches


def export(config: Config) -> Record:
    """runs/<name>/export/slim.onnx."""
    slim = [stage for stage in lineage(config) if stage in ("pruned", "finetuned")]
    if not slim:
        raise SlimError(f"nothing to export in {config.folder}: run `yolo-slim prune` or `yolo-slim finetune` first")
    start = finished(config, slim[-1])
    assert start is not None
    if not config.data:
        raise SlimError("the exported file is compared with PyTorch on real images: give data=path/to/data.yaml")
    chosen = config.export
    settings = {**chosen.model_dump(), "imgsz": config.imgsz}

    def work(folder: Path) -> tuple:
        file = export_onnx(start, folder / "slim.onnx", config.imgsz)
        batches = list(Batches(config.data, config.imgsz, chosen.images, split=split_of(config), batch=1))
        difference = compare_onnx(checkpoint.load(start), file, batches)
        console.print(
            f"[bold green]export[/]: {file} ({file.stat().st_size / 1e6:.2f} MB), largest difference to PyTorch on "
            f"{len(batches)} images: {difference:.1e} (allowed {chosen.tolerance:.0e})"
        )
        if not difference <= chosen.tolerance:
            raise SlimError(
                f"{file} differs from PyTorch by {difference:.1e}, more than export.tolerance={chosen.tolerance:.0e}: "
                "the file is kept for inspection, the stage is not done"
            )
        metrics = {
            "format": "onnx",
            "file_mb": round(file.stat().st_size / 1e6, 3),
            "difference": difference,
            "tolerance": chosen.tolerance,
            "images": len(batches),
        }
        return {"onnx": file}, metrics, {}

    return run_stage(config, "export", settings, [start], work)
