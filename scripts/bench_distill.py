"""Does a teacher help? The same cut fine-tuned plainly, by our default, by Ultralytics' own and by each loss alone.

    python scripts/bench_distill.py --model weights/bccd_v5n.pt --data data/bccd/bccd.yaml
    python scripts/bench_distill.py --cut ours --epochs 10  # a cut that lost little: there is little to learn

Every row trains for as many epochs, with the same seed, from the same cut of `bench_peers.py`. Each finished row is
kept on disk at once: interrupted, the same command goes on, and `--print` shows what is there.
"""

from __future__ import annotations

import argparse
import inspect
import json
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_peers as peers

from yolo_slim.config import Distill
from yolo_slim.distill import FEATURES, LOSSES, OUTPUTS
from yolo_slim.stages.lesson import lesson
from yolo_slim.training.distill import DistillTrainer
from yolo_slim.training.trainer import SlimTrainer

RECIPES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "plain": ("plain fine-tuning", None),
    "default": ("our default", {}),
    "ultralytics": ("Ultralytics' own (`distill_model`)", None),
    "ultralytics_dis1": ("Ultralytics' own at a weight of 1, not 6 (`dis=1`)", None),
    **{
        name: (f"`{name}` alone" + ", as by default" * (name == "channels"), {"features": {name: {}}})
        for name in FEATURES
    },
    **{name: (f"`{name}` alone", {"features": {}, "outputs": {name: {}}}) for name in OUTPUTS},
}
"""Name -> title, and the `finetune.distill` section."""
SEEDED = ("plain", "default", "ultralytics", "ultralytics_dis1")
"""Rows of every seed; the others have the first alone."""


@dataclass(frozen=True)
class Lesson:
    """One row, to be made; what `bench_peers.part` asks of one."""

    args: argparse.Namespace
    recipe: str
    seed: int

    @property
    def cut(self) -> peers.Job:
        """The row of the other table whose cut is taught."""
        return peers.Job(self.args, self.args.cut, self.args.flops[0], 0)

    @property
    def key(self) -> str:
        """What the row is kept under."""
        args = self.args
        return f"{Path(args.data).stem} x{args.flops[0]:g} {args.cut} seed {self.seed} distill {self.recipe}"

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.cut.folder.with_name(f"{self.args.cut}-distill-{self.recipe}-seed{self.seed}")

    def section(self) -> Distill | None:
        """The `finetune.distill` section."""
        chosen = RECIPES[self.recipe][1]
        return None if chosen is None else Distill(**chosen)

    def made_of(self, part: str) -> dict[str, Any]:
        """What decides the outcome."""
        section = self.section()
        return {
            "cut": self.cut.made_of("cut"),
            "distill": json.loads(section.model_dump_json()) if section else self.recipe,
            "losses": losses_of(section) if section else {},
            "epochs": self.args.epochs,
            "train": peers.train_as(self.args),
        }


def losses_of(section: Distill) -> dict[str, dict[str, Any]]:
    """Loss -> its weight and all of its options: a row is made again when a default changes."""
    taught = lesson(section, [])
    asked = {**taught["features"], **taught["outputs"]}
    found = {}
    for name, options in asked.items():
        takes = list(inspect.signature(LOSSES[name]).parameters.values())[1:]  # the first is the pair
        defaults = {option.name: option.default for option in takes}
        found[name] = json.loads(json.dumps({"weight": LOSSES[name].weight, **defaults, **options}))
    return found


def make_trained(row: Lesson) -> dict[str, Any]:
    """Train from the cut, and measure."""
    peers.part(row.cut, "cut")
    start, teacher = row.cut.folder / "start.pt", Path(row.args.model)
    config = row.cut.config(f"seed={row.seed}", f"name={row.folder.name}")
    section, taught, train, kind = row.section(), None, peers.train_as(row.args), SlimTrainer
    if section:
        taught, kind = lesson(section, [teacher]), DistillTrainer
    elif row.recipe.startswith("ultralytics"):
        train = {**train, "distill_model": str(teacher), **({"dis": 1.0} if row.recipe == "ultralytics_dis1" else {})}
        shutil.rmtree(row.folder / "train", ignore_errors=True)  # SlimTrainer cannot resume such a training
    done = peers.train_and_measure(config, start, row.args.epochs, train, kind, teacher, taught)
    return {**done, "epochs": row.args.epochs}


def rows_of(args: argparse.Namespace) -> list[Lesson]:
    """In order: the first seed of all first."""
    return [
        Lesson(args, recipe, seed)
        for seed in args.seeds
        for recipe in args.recipes
        if recipe in SEEDED or seed == args.seeds[0]
    ]


def table(args: argparse.Namespace) -> str:
    """Markdown, with dashes for what is missing, and what it comes to in words."""
    kept, rows, missing, results = peers.read_rows(args), rows_of(args), [], {}
    cut = peers.found(kept, rows[0].cut, "cut")
    before = f"; the cut has {cut['map50_95']:.3f} before them" if cut else ""
    title = f"FLOPs ×{args.flops[0]:g}, {Path(args.data).stem}, {peers.RECIPES[args.cut].title}"
    lines = [f"{title}, mAP50-95 after {args.epochs} epochs{before}", ""]
    lines += ["| fine-tuning | trained | against plain, same seeds | seeds |", "| --- | ---: | ---: | ---: |"]
    found = {(r.recipe, r.seed): t["map50_95"] for r in rows if (t := peers.found(kept, r, "trained"))}
    for recipe in args.recipes:
        seeds = [r.seed for r in rows if r.recipe == recipe]
        made = [s for s in seeds if (recipe, s) in found]
        pairs = [found[recipe, s] - found["plain", s] for s in made if ("plain", s) in found]
        gain = f"{100 * statistics.fmean(pairs):+.1f} points" if pairs and recipe != "plain" else "–"
        results[recipe] = [found[recipe, s] for s in made]
        cells = [f"{RECIPES[recipe][0]} (`{recipe}`)", peers.spread(results[recipe]), gain]
        lines.append(f"| {' | '.join(cells)} | {len(made)} of {len(seeds)} |")
        missing += [f"{recipe} (seed {', '.join(str(s) for s in seeds if s not in made)})"] if made != seeds else []
    if results.get("default"):
        lines += ["", peers.verdict("default", results)]
    if missing:
        lines += ["", f"Still missing: {'; '.join(missing)}"]
    return "\n".join(lines)


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = peers.common_parser(__doc__, RECIPES)
    parser.add_argument("--flops", type=float, nargs=1, default=[0.5], help="share to keep")
    cuts = [name for name, recipe in peers.RECIPES.items() if recipe.start == "slim"]
    parser.add_argument("--cut", choices=cuts, default="l1", help="recipe of bench_peers.py: default %(default)s")
    parser.set_defaults(epochs=5)
    args = parser.parse_args(words)
    args.smaller = None
    peers.settle(parser, args, RECIPES)
    peers.expect_checkpoints(parser, args, args.model)
    return args


def make(args: argparse.Namespace) -> list[str]:
    """Everything that is missing; returns what cannot be made, and why."""
    return peers.complete(rows_of(args), "trained", {"trained": make_trained})


def main(words: list[str] | None = None) -> None:
    """The table of lessons."""
    peers.run(read_arguments(words), make, table)


if __name__ == "__main__":
    main()
