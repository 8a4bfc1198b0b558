"""Every control in one table: our cut beside random, scratch, a smaller detector and Torch-Pruning, at one budget.

    python scripts/bench_peers.py --model weights/bccd_v5n.pt --data data/bccd/bccd.yaml
    python scripts/bench_peers.py --table cut      # no training: mAP right after the cut at FLOPs ×0.75 and ×0.5

Needs `pip install torch-pruning` for the rows that begin with tp_. Each finished part of a row is kept on disk at once,
training goes on from its last epoch: interrupted, the same command goes on, and `--print` shows what is there.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch_pruned as peer
from torch import nn
from ultralytics.nn.modules import DFL
from ultralytics.nn.tasks import DetectionModel

from yolo_slim import checkpoint, record
from yolo_slim.config import Config, read_config
from yolo_slim.console import console
from yolo_slim.data import dataset_info
from yolo_slim.data.batches import first
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence
from yolo_slim.measure import accuracy, cost
from yolo_slim.pruning.choose import evidence_from
from yolo_slim.pruning.cut import cut_to_plan
from yolo_slim.pruning.recalibrate import recalibrate
from yolo_slim.runs.rows import measured, split_of
from yolo_slim.stages.common import train_arguments
from yolo_slim.stages.sparse_train import sparse_train
from yolo_slim.training import trainer
from yolo_slim.training.distill import SETTINGS
from yolo_slim.training.folder import train_in
from yolo_slim.training.trainer import SlimTrainer

TRAIN = {"batch": 16, "nbs": 16, "optimizer": "AdamW", "lr0": 0.00143, "warmup_epochs": 1, "warmup_bias_lr": 0.0,
         "close_mosaic": 5}  # fmt: skip
"""Of every training of every row: what Ultralytics' `optimizer=auto` chooses for three classes, warmed up in one epoch.
"""

RECALIBRATED = ("prune.reconstruct=none", "prune.absorb=none", "prune.recalibrate=256")
BARE = ("prune.reconstruct=none", "prune.absorb=none", "prune.recalibrate=0")
AS_THEN = ("prune.fisher=labels", "prune.rescore=1", "prune.solver=threshold")
"""What channels were judged by when the rows that are kept were made: no choice then."""
OURS, RECOVERY = ("prune.criterion=obs", "prune.scope=global"), ("prune.reconstruct=lstsq",)
"""Our best importance, and our best recovery: settings of the `prune:` section."""
LANDING = ("sparse_train.mode=targeted",)
"""Gradual pruning, over the first half of the epochs."""


@dataclass(frozen=True)
class Recipe:
    """A row: what training starts from, and how long it trains before the cut, as a share of --epochs."""

    title: str
    start: str  # a name in STARTS
    words: tuple[str, ...] = ()  # what is cut, as settings; for Torch-Pruning: pruner, importance, scope
    recovery: tuple[str, ...] = RECALIBRATED
    landing: tuple[str, ...] = ()
    before: float = 0.0
    trained: bool = True


RECIPES = {
    "original": Recipe("original", "whole", trained=False),
    "longer": Recipe("original, trained on", "whole"),
    "ours_landing": Recipe("ours, gradual pruning first", "slim", OURS, RECOVERY, LANDING, before=0.5),
    "ours": Recipe("ours", "slim", OURS, RECOVERY),
    "random": Recipe("random channels, our recovery", "slim", ("prune.criterion=random", "prune.scope=layer"),
                     RECOVERY),
    "l1": Recipe("L1 norms, global", "slim", ("prune.criterion=l1", "prune.scope=global")),
    "tp_groupnorm": Recipe("Torch-Pruning, GroupNormPruner, global", "tp", ("groupnorm_max", "global")),
    "tp_magnitude": Recipe("Torch-Pruning, MagnitudePruner, global", "tp", ("magnitude", "global")),
    "tp_bnscale": Recipe("Torch-Pruning, BNScalePruner, global", "tp", ("bnscale", "global")),
    "tp_groupnorm_reg": Recipe("Torch-Pruning, GroupNormPruner, regularised first", "tp", ("groupnorm_max", "global"),
                               before=0.5),
    "tp_bnscale_reg": Recipe("Torch-Pruning, BNScalePruner, regularised first", "tp", ("bnscale", "global"),
                             before=0.5),
    "scratch_b": Recipe("ours from scratch, as much compute (Scratch-B)", "scratch", OURS, RECOVERY),
    "scratch_e": Recipe("ours from scratch, as many epochs (Scratch-E)", "scratch", OURS, RECOVERY),
    "next_smaller": Recipe("the next smaller stock detector", "smaller"),
}  # fmt: skip


REVISION = 1
"""Of what our rows are made by. Raise it when choosing, recovery or landing change: rows of before are made again."""
OURS_IN_THE_END, WHOLE = ("ours", "ours_landing"), ("original", "longer")


def train_as(args: argparse.Namespace) -> dict[str, Any]:
    """TRAIN, in the precision that was asked for."""
    return {**TRAIN, "amp": "bf16"} if args.bf16 else TRAIN


@dataclass(frozen=True)
class Job:
    """One row, to be made."""

    args: argparse.Namespace
    recipe: str
    flops: float
    seed: int

    @property
    def spec(self) -> Recipe:
        """Its recipe."""
        return RECIPES[self.recipe]

    @property
    def key(self) -> str:
        """What its row is kept under."""
        return f"{Path(self.args.data).stem} x{self.flops:g} seed {self.seed} {self.recipe}"

    @property
    def train(self) -> dict[str, Any]:
        """Arguments of its trainings."""
        return train_as(self.args)

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.config().folder

    def config(self, *words: str) -> Config:
        """The row's settings as the stages read them; its files go to <runs>/<data set>/x<share>/<recipe>-seed<n>."""
        args = self.args
        runs = Path(args.runs) / Path(args.data).stem / f"x{self.flops:g}"
        common = [f"model={args.model}", f"data={args.data}", f"imgsz={args.imgsz}", f"device={args.device}",
                  f"runs={runs}", f"name={self.recipe}-seed{self.seed}", f"seed={self.seed}",
                  f"prune.target.flops={self.flops}", "prune.round_to=8", *AS_THEN]  # fmt: skip
        return read_config(None, [*common, *words])

    def made_of(self, part: str) -> dict[str, Any]:
        """What decides the outcome: a kept part made of anything else is made again."""
        spec = json.loads(json.dumps(asdict(self.spec)))
        del spec["title"]
        model = self.args.smaller if self.spec.start == "smaller" else self.args.model
        stamp = {"model": sum_of(model), "imgsz": self.args.imgsz, **spec}
        if self.spec.start in ("slim", "scratch"):
            stamp |= {"revision": REVISION}
        if part == "trained" or self.spec.before:
            stamp |= {"epochs": self.args.epochs, "train": self.train}
        return stamp


@functools.cache
def sum_of(model: str) -> str:
    """What tells one original from another: a file's sha256, or the name itself."""
    return record.sha256(Path(model)) if Path(model).is_file() else model


# ---------------------------------------------------------------------------------------------------------------------
# What training starts from: each writes start.pt into the row's folder, the cut ones cut.pt as well


def whole(job: Job) -> dict[str, Any]:
    """The original itself."""
    checkpoint.save(checkpoint.load(job.args.model), job.folder / "start.pt")
    return {}


def smaller(job: Job) -> dict[str, Any]:
    """Another detector: a checkpoint trained on the data set as the original was, or a YAML to start untrained."""
    torch.manual_seed(job.seed)
    detector = checkpoint.load(job.args.smaller)
    if not job.args.smaller.endswith(".pt"):
        stock = {**detector.yaml, "nc": dataset_info(job.args.data)["nc"]}
        arguments, detector = detector.args, DetectionModel(stock, verbose=False)
        detector.args = arguments
    checkpoint.save(detector, job.folder / "start.pt")
    return {}


def slim(job: Job) -> dict[str, Any]:
    """Cut by yolo-slim."""
    spec, seed = job.spec, f"prune.seed={job.seed}"
    full, bare = job.config(*spec.words, *spec.recovery, seed), job.config(*spec.words, *BARE, seed)
    source, before = Path(job.args.model), {}
    if spec.before:
        done = sparse_train(job.config(*spec.words, *spec.landing, f"sparse_train.epochs={_before(job)}",
                                       f"sparse_train.train={json.dumps(job.train)}"))  # fmt: skip
        source, before = done.output(job.folder / "sparse"), {"before": done.metrics["map50_95"]}
    detector = checkpoint.load(source)
    for name, config in (("cut", bare), ("start", full)):
        cut = cut_to_plan(detector, config.prune, config.imgsz, evidence(job.args))
        checkpoint.save(cut.model, job.folder / f"{name}.pt")
    return before


def scratch(job: Job) -> dict[str, Any]:
    """Our slim architecture with new random weights."""
    ours = replace(job, recipe="ours")
    part(ours, "cut")
    detector = checkpoint.load(ours.folder / "start.pt")
    torch.manual_seed(job.seed)
    checkpoint.save(reinitialised(detector), job.folder / "start.pt")
    return {}


def reinitialised(detector: nn.Module) -> nn.Module:
    """New random weights as Ultralytics starts with them, in place."""
    fixed = {m for d in detector.modules() if isinstance(d, DFL) for m in d.modules()}  # its weights are 0, 1, 2, ...
    for m in detector.modules():
        if hasattr(m, "reset_parameters") and m not in fixed:
            m.reset_parameters()
    detector.model[-1].bias_init()
    return detector


def torch_pruned(job: Job) -> dict[str, Any]:
    """Cut by Torch-Pruning, then recalibrated on the images that ours is recalibrated on."""
    source, before = checkpoint.load(job.args.model), {}
    if job.spec.before:
        source = regularised(job)
        landed = measured(job.config(), checkpoint.save(source, job.folder / "regularised.pt"))
        before = {"before": landed["map50_95"]}
    narrow = peer.cut(source, *job.spec.words, job.args.imgsz, job.flops)
    checkpoint.save(narrow, job.folder / "cut.pt")
    recalibrate(narrow, first(evidence(job.args).images, 256))
    checkpoint.save(narrow, job.folder / "start.pt")
    return before


def regularised(job: Job) -> nn.Module:
    """The original, trained under the pruner's own regulariser; its live weights, as our sparse training takes them."""
    folder, start = job.folder / "regularised", Path(job.args.model)
    folder.mkdir(parents=True, exist_ok=True)
    arguments = train_arguments(job.config(), _before(job), job.train)
    trainer_class = peer.regularised(*job.spec.words)
    settings = {"words": job.spec.words, "reg": peer.REG}
    trained = train_in(folder, trainer_class, start, settings=settings, inputs=[start], extra={}, arguments=arguments)
    ckpt = checkpoint.read(trained / "last.pt")
    detector = checkpoint.detector_of(ckpt, trained / "last.pt")
    detector.load_state_dict(ckpt["live"])
    return detector


STARTS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "whole": whole,
    "smaller": smaller,
    "slim": slim,
    "scratch": scratch,
    "tp": torch_pruned,
}


@functools.cache
def _evidence(data: str, imgsz: int, model: str) -> Evidence:
    config = read_config(None, [f"model={model}", f"data={data}", f"imgsz={imgsz}"])
    return evidence_from(config, checkpoint.load(model))


def evidence(args: argparse.Namespace) -> Evidence:
    """The same training images for every row; read once."""
    return _evidence(args.data, args.imgsz, args.model)


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def _before(job: Job) -> int:
    return int(job.args.epochs * job.spec.before)


def scratch_epochs(epochs: int, whole: float, slim: float) -> int:
    """Scratch-B: as many epochs as cost what the original's would, at most twice as many.

    Liu et al., ICLR 2019, arXiv:1810.05270.
    """
    return min(int(epochs * whole / slim), 2 * epochs)


def make_cut(job: Job) -> dict[str, Any]:
    """Write start.pt, and measure it before any training."""
    job.folder.mkdir(parents=True, exist_ok=True)
    row = STARTS[job.spec.start](job)
    config = job.config()
    row |= measured(config, job.folder / "start.pt")
    row["share"] = row["macs"] / cost(checkpoint.load(job.args.model), config.imgsz).macs
    bare = job.folder / "cut.pt"
    if bare.exists():
        row["bare"] = accuracy(checkpoint.load(bare), config.data, config.imgsz, split_of(config), config.device)[
            "map50_95"
        ]
    return row


def make_trained(job: Job) -> dict[str, Any]:
    """Train from start.pt, and measure."""
    begun = part(job, "cut")
    epochs = job.args.epochs - _before(job) if job.spec.trained else 0
    if job.recipe == "scratch_b":
        epochs = scratch_epochs(epochs, 1.0, begun["share"])
    config, start = job.config(), job.folder / "start.pt"
    if not epochs:
        return {**begun, "epochs": _before(job)}
    trained = train_and_measure(config, start, epochs, job.train, SlimTrainer)
    return {**trained, "epochs": _before(job) + epochs}


def train_and_measure(
    config: Config,
    start: Path,
    epochs: int,
    train: dict[str, Any],
    trainer_class: type[SlimTrainer] = SlimTrainer,
    teacher: Path | None = None,
    lesson: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a checkpoint in the row's folder; trained.pt is the best on the val split, whose numbers are returned.

    A teacher is what the outcome depends on besides, a lesson what it teaches by (DistillTrainer's settings).
    """
    extra, inputs = ({SETTINGS: lesson} if lesson else {}), [start, *([teacher] if teacher else [])]
    arguments, settings = train_arguments(config, epochs, train), lesson or {}
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    trained = train_in(folder, trainer_class, start, settings=settings, inputs=inputs, extra=extra, arguments=arguments)
    return measured(config, checkpoint.save(checkpoint.load(trained / "best.pt"), folder / "trained.pt"))


MAKE = {"cut": make_cut, "trained": make_trained}


def read_rows(args: argparse.Namespace) -> dict[str, dict]:
    """key -> {cut: ..., trained: ...}."""
    file = Path(args.rows)
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def found(rows: dict[str, dict], job: Job, name: str) -> dict[str, Any] | None:
    """A part of a row, if it was made of the same; of whatever detector, where that is not there to be compared."""
    kept = rows.get(job.key, {}).get(name)
    there = Path(job.args.model).is_file()
    same = kept and known(kept["made_of"], there) == known(job.made_of(name), there)
    return kept if same else None


def known(stamp: dict[str, Any], there: bool) -> dict[str, Any]:
    """A stamp, without the sums of detectors that are not there: a kept table is read without them."""
    if there:
        return stamp
    told = {k: v for k, v in stamp.items() if k not in ("model", "smaller")}
    return {k: known(v, there) if isinstance(v, dict) else v for k, v in told.items()}


def part(job: Job, name: str, make: Mapping[str, Callable[[Any], dict[str, Any]]] | None = None) -> dict[str, Any]:
    """A part of a row: kept, or made and kept."""
    kept = found(read_rows(job.args), job, name)
    if kept and (name == "trained" or (job.folder / "start.pt").exists()):
        return kept
    console.rule(f"{job.key}: {name}")
    made = {**(make or MAKE)[name](job), "made_of": job.made_of(name)}
    rows = read_rows(job.args)  # another process may have written meanwhile
    rows.setdefault(job.key, {})[name] = made
    Path(job.args.rows).parent.mkdir(parents=True, exist_ok=True)
    record.write_json(Path(job.args.rows), rows)
    return made


def jobs(args: argparse.Namespace) -> list[Job]:
    """In order: the first seed of every row comes first; the original is the same for every seed."""
    recipes = [r for r in args.recipes if r != "next_smaller" or args.smaller]
    if args.table == "cut":
        recipes = [
            r for r in recipes if r == "original" or (RECIPES[r].start in ("slim", "tp") and not RECIPES[r].before)
        ]
    return [
        Job(args, recipe, flops, seed)
        for seed in args.seeds
        for flops in args.flops
        for recipe in recipes
        if recipe != "original" or seed == args.seeds[0]
    ]


def make(args: argparse.Namespace) -> list[str]:
    """Everything that is missing; returns what cannot be made, and why."""
    return complete(jobs(args), "cut" if args.table == "cut" else "trained", MAKE)


def complete(wanted: Iterable[Job], name: str, how: Mapping[str, Callable[[Any], dict[str, Any]]]) -> list[str]:
    """This part of every row; returns what cannot be made, and why."""
    refused = []
    for job in wanted:
        try:
            part(job, name, how)
        except SlimError as e:
            refused.append(f"{job.key}: not available: {e}")
            console.print(refused[-1])
    return refused


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def spread(values: Iterable[float | None]) -> str:
    """mean ± standard deviation over seeds; a dash for nothing."""
    values = [v for v in values if v is not None]
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def table(args: argparse.Namespace) -> str:
    """Markdown, one table a budget, with dashes for what is missing."""
    rows, wanted = read_rows(args), jobs(args)
    training = args.table != "cut"
    lines, missing = [], []
    for flops in args.flops:
        head = ["detector", "params, M", "FLOPs ×", "before the cut", "as cut", "recovered"]
        head += ["epochs", "trained", "seeds"] if training else ["kept"]
        lines += ["", f"FLOPs ×{flops:g}, {Path(args.data).stem}, mAP50-95", ""]
        lines += [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
        original, results = None, {}
        for recipe in dict.fromkeys(j.recipe for j in wanted):
            mine = [j for j in wanted if (j.recipe, j.flops) == (recipe, flops)]
            cuts = [c for j in mine if (c := found(rows, j, "cut"))]
            ends = [t for j in mine if (t := found(rows, j, "trained"))]
            if recipe == "original" and cuts:
                original = cuts[0]["map50_95"]
            results[recipe] = [e["map50_95"] for e in ends]
            lines.append(_line(recipe, cuts, ends, len(mine), original, training))
            seeds = [str(j.seed) for j in mine if not found(rows, j, "trained" if training else "cut")]
            missing += [f"{recipe} x{flops:g} (seed {', '.join(seeds)})"] if seeds else []
        if training:
            lines += [f"\n{verdict(ours, results)}" for ours in OURS_IN_THE_END if results.get(ours)]
    notes = []
    if "next_smaller" in args.recipes and not args.smaller and training:
        notes.append(
            "The next smaller stock detector: none given (--smaller). For yolov5n there is none: it is the smallest."
        )
    if missing:
        notes.append(f"Still missing: {'; '.join(missing)}")
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]).lstrip()


def _line(recipe: str, cuts: list, ends: list, of: int, original: float | None, training: bool) -> str:
    cells = [f"{RECIPES[recipe].title} (`{recipe}`)"]
    cells += [f"{statistics.fmean(c['params'] for c in cuts) / 1e6:.3f}" if cuts else "–"]
    cells += [spread(c["share"] for c in cuts)]
    cells += [spread(c.get("before") for c in cuts), spread(c.get("bare") for c in cuts)]
    recovered = [c["map50_95"] for c in cuts if "bare" in c or recipe == "original"]
    cells += [spread(recovered)]
    if training:
        epochs = sorted({e["epochs"] for e in ends})
        cells += ["/".join(map(str, epochs)) or "–", spread(e["map50_95"] for e in ends), f"{len(ends)} of {of}"]
    else:
        cells += [f"{statistics.fmean(recovered) / original:.0%}" if recovered and original else "–"]
    return f"| {' | '.join(cells)} |"


AHEAD = "ahead, by more than the spread of seeds, of"
OPEN = "ahead, where one of the two has one seed and so no spread, of"
NOT_AHEAD = "NOT ahead, or by less than the spread, of"


def verdict(ours: str, results: dict[str, list[float]]) -> str:
    """In words: whom our row is ahead of by more than either spread over seeds, and how far it is from the original.

    Args:
        ours: a recipe.
        results: recipe -> mAP50-95 after training, one a seed.
    """
    mine = results[ours]
    sides: dict[str, list[str]] = {}
    for rival, theirs in results.items():
        if rival not in (ours, *OURS_IN_THE_END, *WHOLE) and theirs:
            gain = statistics.fmean(mine) - statistics.fmean(theirs)
            spreads = [statistics.stdev(v) for v in (mine, theirs) if len(v) > 1]
            side = NOT_AHEAD if gain <= max(spreads, default=0) else AHEAD if len(spreads) == 2 else OPEN
            sides.setdefault(side, []).append(f"`{rival}` ({gain:+.3f})")
    said = [f"{side} {', '.join(sides[side])}" for side in (AHEAD, OPEN, NOT_AHEAD) if side in sides]
    gaps = [f"`{r}` {statistics.fmean(mine) - statistics.fmean(results[r]):+.3f}" for r in WHOLE if results.get(r)]
    said += [f"against {', '.join(gaps)}"] if gaps else []
    return f"`{ours}` is {'; '.join(said) or 'alone in this table'}."


def common_parser(description: str | None, recipes: Iterable[str]) -> argparse.ArgumentParser:
    """The command line that every table has; `settle` reads it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="weights/bccd_v5n.pt", help="the original")
    parser.add_argument("--data", default="data/bccd/bccd.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--recipes", default=",".join(recipes), help="of these, with commas (default: all): %(default)s"
    )
    parser.add_argument("--epochs", type=int, default=20, help="of every row, those before the cut included")
    parser.add_argument("--runs", default="runs/bench_peers", help="cuts in it serve every table")
    parser.add_argument("--rows", help="where finished rows are kept (default: <runs>/rows.json)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch on a CPU (default: its own choice)")
    parser.add_argument(
        "--bf16", action="store_true", help="train in mixed precision: on a CPU with AMX in two thirds of the time"
    )
    parser.add_argument("--print", action="store_true", help="print what is there and make nothing")
    return parser


def settle(parser: argparse.ArgumentParser, args: argparse.Namespace, recipes: Iterable[str]) -> None:
    """Complete the arguments that `common_parser` has read."""
    args.recipes = args.recipes.split(",")
    if unknown := set(args.recipes) - set(recipes):
        parser.error(f"unknown recipes: {', '.join(sorted(unknown))}; known: {', '.join(recipes)}")
    args.rows = args.rows or str(Path(args.runs) / "rows.json")


def expect_checkpoints(parser: argparse.ArgumentParser, args: argparse.Namespace, *files: str) -> None:
    """Refuse what is not there; a kept table is printed without."""
    for file in files:
        if not Path(file).is_file() and not args.print:
            parser.error(f"no checkpoint at {file}")


def use_threads(threads: int | None) -> None:
    """As many as asked for, in what torch does here and in trainings."""
    if threads:
        torch.set_num_threads(threads)
        trainer.THREADS = threads  # what the trainer sets, where Ultralytics would take one less


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = common_parser(__doc__, RECIPES)
    parser.add_argument("--smaller", help="the next smaller stock detector: a .pt trained on the data set, or a .yaml")
    parser.add_argument("--flops", type=float, nargs="+", help="share to keep (default 0.5; --table cut: 0.75 0.5)")
    parser.add_argument(
        "--table", choices=["trained", "cut"], default="trained", help="cut: right after it, no training"
    )
    args = parser.parse_args(words)
    settle(parser, args, RECIPES)
    expect_checkpoints(parser, args, *(f for f in (args.model, args.smaller) if f and f.endswith(".pt")))
    args.flops = args.flops or ([0.75, 0.5] if args.table == "cut" else [0.5])
    return args


def run(
    args: argparse.Namespace,
    make: Callable[[argparse.Namespace], list[str]],
    table: Callable[[argparse.Namespace], str],
) -> None:
    """Make what is missing, then print a table, and below it what cannot be made."""
    use_threads(args.threads)
    refused = [] if args.print else make(args)
    print(table(args))
    for line in refused:
        print(f"\n{line}")


def main(words: list[str] | None = None) -> None:
    """The table of recipes."""
    run(read_arguments(words), make, table)


if __name__ == "__main__":
    main()
