"""A table of the detector's layers: what is tied to what, what must stay and why, what each costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from torch import nn

from yolo_slim import checkpoint, deploy
from yolo_slim.channels import Plan, Trace, image_channels, trace
from yolo_slim.channels.groups import Conv
from yolo_slim.channels.plan import Cut
from yolo_slim.config import Complete, Finetune, Match, Prune, SparseTrain, words
from yolo_slim.console import Terminal, console
from yolo_slim.formats.detector import Detector
from yolo_slim.formats.door import cuts_of, whole
from yolo_slim.formats.families import known_family
from yolo_slim.formats.model_yaml import layers_of
from yolo_slim.text import printable

COLUMNS = ("layer", "width", "group", "tied to", "params", "MMACs", "|γ| 5/50/95 %", "kept whole because")
DEFAULTS = {"sparse": SparseTrain(), "pruned": Prune(), "recovered": Match(steps=1), "finetuned": Finetune()}
"""Of the sections that decide what a stage does."""

NUMBERS = {"width", "group", "params", "MMACs"}
FOLDING = {"tied to", "kept whole because"}
SHOWN = 12
"""Widths of a plan that are told; `plan.json` lists them all."""
PIPED_WIDTH = 140  # columns, when nobody's terminal says how many there are


def inspect(config: Complete) -> None:
    """Print the table; of an exported file, what it carries about itself."""
    if not config.model.endswith((".yaml", ".yml", ".weights")) and not checkpoint.is_stored(config.model):
        card = deploy.card_in(Path(config.model))
        lines = [*history(card), *plan_of(card.get("plan") or [], {})]
        for line in lines or [f"{config.model} carries no model card: it was not exported by yolo-slim"]:
            console.print(printable(line), markup=False)
        return
    detector = checkpoint.load(config.model, config.weights)
    wiring = trace(detector, config.imgsz)
    owner = {name: i for i, g in enumerate(wiring.groups) for name in g.producers}
    table = Table(title=Text(printable(f"{config.model} at {config.imgsz} px")), box=SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        folds = column in FOLDING
        table.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=not folds, overflow="fold")
    for conv in wiring.convs.values():
        table.add_row(*(Text(printable(cell)) for cell in _row(detector, wiring, conv, owner.get(conv.name))))
    wide = console if console.is_terminal else Terminal(width=PIPED_WIDTH)
    wide.print(table)
    free = wiring.free
    console.print(
        f"{len(wiring.convs)} convolutions in {len(wiring.groups)} groups; {len(free)} groups with "
        f"{sum(g.size for g in free)} channels may be cut"
    )
    if wiring.blocks:
        names = printable(", ".join(map(_short, wiring.blocks)))
        told = f"{len(wiring.blocks)} residual branches may be taken out whole (prune.depth): {names}"
        console.print(told, markup=False)
    if checkpoint.is_stored(config.model):
        cuts = cuts_of(detector)
        for line in (*history(checkpoint.card(config.model)), *plan_of(cuts, _before(detector) if cuts else {})):
            console.print(printable(line), markup=False)


def history(card: dict[str, Any]) -> list[str]:
    """What a model card tells: where the detector comes from, and every step with what it came to."""
    if not card:
        return []
    source, weights, made = card.get("source"), card.get("weights"), card.get("versions") or {}
    lines = [f"Exported from {weights['file']} (sha256 {weights['sha256']})"] if weights else []
    lines += [f"Made from {source['file']} (sha256 {source['sha256']})" if source else "Trained from a model YAML"]
    for step in card.get("steps") or []:
        lines.append(f"  {step['stage']:11}{_numbers(step)}".rstrip())
        lines += [f"  {'':11}{told}" for told in [_settings(step)] if told]
    names = {"yolo-slim": "yolo-slim", "ultralytics": "Ultralytics", "torch": "torch"}
    by = ", ".join(f"{said} {made[name]}" for name, said in names.items() if made.get(name))
    return [*lines, *([f"By {by}"] if by else [])]


def _numbers(step: dict[str, Any]) -> str:
    """What a step came to, as far as it is told."""
    told = []
    if step.get("params") is not None:
        told.append(f"{step['params'] / 1e6:.3f} M parameters")
    if step.get("flops") is not None:
        side = (step.get("settings") or {}).get("imgsz")
        told.append(f"{step['flops'] / 1e9:.3f} GFLOPs" + (f" at {side} px" if side else ""))
    if step.get("map50_95") is not None:
        told.append(f"mAP50-95 {step['map50_95']:.3f} ({step.get('split')})")
    return "  ".join(told)


def plan_of(cuts: Iterable[Cut], before: Mapping[str, int]) -> list[str]:
    """The widths that cuts, one after the other, have come to.

    Args:
        cuts: convolution -> indices of the outputs that stay.
        before: widths of the convolutions before the first cut, where they are known.
    """
    widths = {name: len(kept) for name, kept in Plan.composed(cuts).outputs.items()}
    if not widths:
        return []
    told = [f"{_short(name)} {before.get(name, '')} -> {width}".replace("  ", " ") for name, width in widths.items()]
    more = [f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
    return [f"Plan: {len(told)} convolutions are narrower: {', '.join([*told[:SHOWN], *more])}"]


def _before(detector: Detector) -> dict[str, int]:
    """The widths that a slim detector had when it was whole, where its YAML tells."""
    if not known_family(detector, "the table").rebuilds:
        return {}
    found = layers_of(whole(detector.yaml), image_channels(detector)).named_modules()
    return {f"model.{name}": m.out_channels for name, m in found if isinstance(m, nn.Conv2d)}


def _settings(step: dict[str, Any]) -> str:
    """Those that are not the default, as one types them."""
    known = DEFAULTS.get(step["stage"])
    usual = known.model_dump(mode="json") if known else {}
    settings = step.get("settings") or {}
    return ", ".join(words(_set({k: v for k, v in settings.items() if k not in usual or v != usual[k]})))


def _set(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what is null, however deep."""
    return {k: _set(v) if isinstance(v, dict) else v for k, v in settings.items() if v is not None}


def _row(detector: Detector, wiring: Trace, conv: Conv, group: int | None) -> list[str]:
    scales = ""
    if conv.norm and (w := wiring.norms[conv.norm].layer(detector).weight) is not None:
        scales = " ".join(f"{v:.2f}" for v in np.quantile(w.detach().abs().numpy(), [0.05, 0.5, 0.95]))
    g = wiring.groups[group] if group is not None else None
    tied = [_short(p) for p in g.producers if p != conv.name] if g else []
    return [
        _short(conv.name),
        str(len(conv.outputs)),
        "" if group is None else str(group),
        ", ".join(tied),
        f"{conv.weights + (len(conv.outputs) if conv.bias else 0):,}",
        f"{conv.macs / 1e6:.1f}",
        scales,
        (g.reason or "") if g else "depthwise: follows its input" if conv.depthwise else "",
    ]


def _short(name: str) -> str:
    return name.removeprefix("model.").removesuffix(".conv")
