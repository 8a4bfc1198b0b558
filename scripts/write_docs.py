"""Writes what is generated in README.md and docs/ anew: `python scripts/write_docs.py`.

Tables, from the rows that are kept: each stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`, and is what
its command prints. Rows that nobody has made yet are named below it. And docs/settings.md, from the settings' models.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench_budget
import bench_distill
import bench_equal_latency
import bench_evidence
import bench_landing
import bench_matching
import bench_peers
import bench_yolov5
import fuzz
import kill

from yolo_slim.compress import METHODS
from yolo_slim.config import Config, section

ROOT = Path(__file__).parents[1]
TABLES = {
    "peers": "--flops 0.5",
    "peers-quarter": "--flops 0.25 --seeds 0 --bf16",
    "peers-quarter-long": "--flops 0.25 --seeds 0 --bf16 --epochs 60 --recipes ours_landing",
    "peers-cards": "--data data/cards/cards.yaml --seeds 0 --bf16",
    "cut": "--table cut --seeds 0",
    "distill": "--cut l1 --epochs 5 --bf16",
    "distill-again": "--cut l1 --epochs 5 --bf16 --recipes plain,default --seeds 6 7 8",
    "distill-longer": "--cut l1 --epochs 10 --bf16 --recipes plain,default,ultralytics",
    "distill-ours": "--cut ours --epochs 10 --bf16 --recipes plain,default",
    "distill-landing": "--cut ours_landing --epochs 10 --bf16 --recipes plain,default",
    "distill-quarter": "--cut ours --flops 0.25 --epochs 10 --bf16 --recipes plain,default",
    "distill-cards": "--cut l1 --epochs 5 --bf16 --data data/cards/cards.yaml --seeds 0 "
    "--recipes plain,default,ultralytics",
    "equal-openvino": "--runtime openvino --timed-threads 2 --bf16 --epochs 10",
    "equal-onnxruntime": "--runtime onnxruntime --timed-threads 2 --bf16 --epochs 10",
}
"""Name -> arguments of its script, besides the file of rows."""
SCRIPTS = {"peers": bench_peers, "cut": bench_peers, "distill": bench_distill, "equal": bench_equal_latency}
"""What the name of a table begins with -> what prints it."""
ROWS = {
    "peers-quarter-long": "bench_peers_60_epochs_rows.json",
    "distill-longer": "bench_distill_10_epochs_rows.json",
    "distill-ours": "bench_distill_10_epochs_rows.json",
    "distill-landing": "bench_distill_10_epochs_rows.json",
    "distill-quarter": "bench_distill_10_epochs_rows.json",
}
"""Name -> where its rows are kept, in scripts/; else that of its script: a row has one number of epochs."""


def others() -> dict[str, str]:
    """Tables that take no arguments, by name."""
    trials, landings, evidence, matching, yolov5, budget = (
        json.loads((ROOT / f"scripts/{name}_rows.json").read_text())
        for name in ("kill", "bench_landing", "bench_evidence", "bench_matching", "bench_yolov5", "bench_budget")
    )
    kills = kill.table([row for trial in trials for row in trial])
    return {
        "fuzz": fuzz.table(),
        "kill": kills,
        "landing": bench_landing.table(landings),
        "evidence": bench_evidence.table(evidence),
        "matching": bench_matching.table(matching),
        "budget": bench_budget.table(budget),
        **{f"yolov5-{part}": bench_yolov5.table(yolov5, part) for part in bench_yolov5.PARTS},
    }


def printed(name: str) -> str:
    """The Markdown tables that are printed, and what is missing from them instead of rows of dashes."""
    bench = SCRIPTS[name.partition("-")[0]]
    rows = ["--rows", str(ROOT / "scripts" / ROWS.get(name, f"{bench.__name__}_rows.json"))]
    args = bench.read_arguments([*TABLES[name].split(), *rows, "--model", "none.pt", "--print"])
    lines = bench.table(args).splitlines()
    shown = [line for line in lines if line.startswith(("|", "FLOPs", "Still", "openvino", "onnxruntime"))]
    made = [line for line in shown if not re.search(r"\| 0 of \d+ \|$", line)]
    return "\n\n".join("\n".join(g) for g in _blocks(made))


def _blocks(lines: list[str]) -> list[list[str]]:
    """Titles, tables and what is missing, each by itself."""
    blocks: list[list[str]] = []
    for line in lines:
        if not blocks or not (line.startswith("|") and blocks[-1][-1].startswith("|")):
            blocks.append([])
        blocks[-1].append(line)
    return blocks


def tables() -> dict[str, str]:
    """All, by name."""
    return {**{name: printed(name) for name in TABLES}, **others(), "peers-short": short(), "settings": settings()}


def short() -> str:
    """Three rows of the first table, for who has a minute."""
    names = {
        "original": "the original",
        "ours": "ours, trained alike",
        "tp_groupnorm": "Torch-Pruning GroupNorm, alike",
    }
    lines = printed("peers").splitlines()
    rows = [next(line for line in lines if f"(`{key}`)" in line).split("|") for key in names]
    head = "| BCCD, YOLOv5n | params, M | FLOPs × | before training | mAP50-95 |\n| --- | ---: | ---: | ---: | ---: |"
    picked = [(name, row[2], row[3], row[6], row[8]) for name, row in zip(names.values(), rows, strict=True)]
    return "\n".join([head, *(f"| {' | '.join(cell.strip() for cell in row)} |" for row in picked)])


def settings() -> str:
    """Every setting, by section, with its default and what it does."""
    parts = [part for path in [[], *([name] for name in Config.model_fields)] for part in _section(path)]
    methods = [_method(name, method) for name, method in METHODS.items()]
    return "\n\n".join([*parts, "## Methods of `compress`", *methods])


def _section(path: list[str]) -> list[str]:
    model = section(path)
    if model is None:
        return []
    rows, inner = [], []
    for name, field in model.model_fields.items():
        if section([*path, name]) is not None:
            inner += _section([*path, name]) if path else []
            continue
        default = "needed" if field.is_required() else f"`{json.dumps(field.default, ensure_ascii=False)}`"
        rows.append((f"`{'.'.join([*path, name])}`", default, field.description or ""))
    said = " ".join((model.__doc__ or "").split()) if path else "These belong to every stage."
    return [f"##{'#' * (len(path) > 1)} {'.'.join(path) or 'General'}", said, _rows(rows), *inner]


def _method(name: str, method: type[Any]) -> str:
    rows = []
    for field in dataclasses.fields(method):
        default = "needed" if field.default is dataclasses.MISSING else f"`{json.dumps(field.default)}`"
        rows.append((f"`{field.name}`", default, field.metadata["help"]))
    return f"### {name}\n\n{method.help.capitalize()}. Speed: {method.speed}.\n\n{_rows(rows)}"


def _rows(rows: Sequence[tuple[str, str, str]]) -> str:
    head = "| setting | default | |\n| --- | --- | --- |"
    return "\n".join([head, *(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows)])


def written(text: str, made: dict[str, str]) -> str:
    """A page with its tables as they are now."""
    for name in re.findall(r"<!-- table:([\w-]+) -->", text):
        opening, closing = f"<!-- table:{name} -->\n", f"<!-- /table:{name} -->"
        before, rest = text.split(opening)
        text = f"{before}{opening}{made[name]}\n{closing}{rest.split(closing)[1]}"
    return text


def pages() -> list[Path]:
    """README.md, and all of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


if __name__ == "__main__":
    made = tables()
    for page in pages():
        page.write_text(written(page.read_text(encoding="utf-8"), made), encoding="utf-8")
