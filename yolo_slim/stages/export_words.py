"""What the stage `export` says of a file: beyond which bound it is, and what it has come to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yolo_slim.report as report
from yolo_slim.console import console


def complaints(row: dict[str, Any]) -> Iterator[str]:
    """What is beyond its bound, and what to do about it."""
    if row.get("not_run"):
        return
    if row.get("error"):
        yield f"{row['file']}: {row['runtime']} does not run it: {row['error']}"
        return
    for runtime, difference in {row["runtime"]: row["difference"], **row["also"]}.items():
        if difference is not None and not difference <= row["tolerance"]:
            yield (
                f"{row['file']}: its output in {runtime} differs from PyTorch's by {difference:.1e}, more than "
                f"export.tolerance={row['tolerance']:.0e}. Try export.simplify=false or another export.opset"
            )
    change, bound = row["map50_95_difference"], row["map50_95_tolerance"]
    if change is None:  # no image has a label
        return
    sure = report.in_brackets(report.sure_of(row))
    if row["precision"] != "fp32" and not -change <= bound:
        yield (
            f"{row['file']}: its mAP50-95 is {100 * -change:.2f} points below PyTorch's{sure}, more than "
            f"export.int8_tolerance={bound:g}. Measure on more images (export.calib_images) or keep more layers in "
            "float, e.g. export.int8_float=[head,model.0.*]"
        )
    if row["precision"] == "fp32" and not abs(change) <= bound:
        yield (
            f"{row['file']}: its mAP50-95 differs from PyTorch's by {100 * change:+.2f} points{sure}, more than "
            f"export.map_tolerance={bound:g}. Try export.simplify=false or another export.opset"
        )


def say_file(row: dict[str, Any]) -> None:
    """One line on what a file has come to."""
    if row.get("not_run"):
        said = f"export: {row['file']}  {row['precision']}  {row['file_mb']:.2f} MB: made, not proven here: "
        console.print(said + row["not_run"], markup=False)
        return
    if row["error"]:
        console.print(f"export: {row['file']}: not in {row['runtime']}: {row['error']}", markup=False)
        return
    raw = "" if row["difference"] is None else f"  largest difference to PyTorch {row['difference']:.1e}"
    also = "".join(f", in {name} {d:.1e}" for name, d in row["also"].items() if d is not None)
    worth = "mAP not measured"
    if row["map50_95"] is not None:
        # What is exact is held against PyTorch output by output: there is nothing to be unsure of.
        unsure = report.sure_of(row) if row["precision"] == "int8" else ""
        worth = f"mAP50-95 {row['map50_95']:.3f} ({100 * row['map50_95_difference']:+.2f} points{unsure})"
    console.print(
        f"[bold green]export[/]: {row['file']}  {row['precision']}  {row['file_mb']:.2f} MB{raw}{also}"
        f"  {worth}, in {row['runtime']}"
    )
    if row.get("moved"):
        console.print(row["moved"], markup=False)
