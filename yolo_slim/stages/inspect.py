"""A table of the detector's layers: what is tied to what, what must stay and why, what each costs."""

from __future__ import annotations

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from yolo_slim import checkpoint
from yolo_slim.channels import Trace, trace
from yolo_slim.channels.groups import Conv
from yolo_slim.config import Config
from yolo_slim.stages.common import console

COLUMNS = ("layer", "width", "group", "tied to", "params", "MMACs", "|γ| 5/50/95 %", "kept whole because")
NUMBERS = {"width", "group", "params", "MMACs"}
FOLDING = {"tied to", "kept whole because"}
PIPED_WIDTH = 140  # columns, when nobody's terminal says how many there are


def inspect(config: Config) -> None:
    """Print the table."""
    detector = checkpoint.load(config.model)
    wiring = trace(detector, config.imgsz)
    owner = {name: i for i, g in enumerate(wiring.groups) for name in g.producers}
    table = Table(title=f"{config.model} at {config.imgsz} px", box=SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        folds = column in FOLDING
        table.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=not folds, overflow="fold")
    for conv in wiring.convs.values():
        table.add_row(*_row(detector, wiring, conv, owner.get(conv.name)))
    wide = console if console.is_terminal else Console(width=PIPED_WIDTH)
    wide.print(table)
    free = wiring.free
    console.print(
        f"{len(wiring.convs)} convolutions in {len(wiring.groups)} groups; {len(free)} groups with "
        f"{sum(g.size for g in free)} channels may be cut"
    )
    if wiring.blocks:
        names = ", ".join(map(_short, wiring.blocks))
        console.print(f"{len(wiring.blocks)} residual branches may be taken out whole (prune.depth): {names}")


def _row(detector: object, wiring: Trace, conv: Conv, group: int | None) -> list[str]:
    weights = conv.kernel * (1 if conv.depthwise else len(conv.inputs) // conv.groups) * len(conv.outputs)
    scales = ""
    if conv.norm and (w := detector.get_submodule(conv.norm).weight) is not None:  # type: ignore[attr-defined]
        scales = " ".join(f"{v:.2f}" for v in np.quantile(w.detach().abs().numpy(), [0.05, 0.5, 0.95]))
    g = wiring.groups[group] if group is not None else None
    tied = [_short(p) for p in g.producers if p != conv.name] if g else []
    return [
        _short(conv.name),
        str(len(conv.outputs)),
        "" if group is None else str(group),
        ", ".join(tied),
        f"{weights + (len(conv.outputs) if conv.bias else 0):,}",
        f"{weights * conv.positions / 1e6:.1f}",
        scales,
        (g.reason or "") if g else "depthwise: follows its input" if conv.depthwise else "",
    ]


def _short(name: str) -> str:
    return name.removeprefix("model.").removesuffix(".conv")
