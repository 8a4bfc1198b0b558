"""Does a detector hold a ticket? Iterative magnitude pruning with rewinding, beside a control of the same masks.

    python scripts/lottery.py --model yolov5n.yaml --data data/bccd/bccd.yaml --epochs 60 --rounds 5 --prune 0.2
    python scripts/lottery.py --model yolov5n.yaml --data data/bccd/bccd.yaml --structured  # channels, not weights
    python scripts/lottery.py ... --print                                                   # what is there by now

Frankle & Carbin, ICLR 2019, arXiv:1803.03635, with rewinding to an early epoch (arXiv:1903.01611). A dense detector is
trained from random weights and kept as it was after `--rewind` epochs; each round takes out the `--prune` share of the
weights that are left which training has left smallest, sets the others back to that epoch, and trains them with the
schedule from there. The control trains other random weights under the same masks, for as long as the dense one. A
ticket is worth something where its row is above the control's.

Structured (`--structured`): each round takes out a share of the channels, by their L1 norm. What stays goes back with
its batch norms' statistics, and the optimizer begins anew. Liu et al. (ICLR 2019, arXiv:1810.05270) find no gain of
tickets over new random weights there.

Costs 1 + 2 x rounds trainings from scratch: for small data sets and detectors. Masked weights make nothing faster by
themselves. Stopped at any moment, the same command goes on. On one device: trainings of several GPUs are not for this.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml

from yolo_slim import checkpoint, prune, record
from yolo_slim.channels import Plan as Cut
from yolo_slim.channels import replay, trace
from yolo_slim.compress import Plan
from yolo_slim.compress.lottery import all_left, next_round, rewound
from yolo_slim.data import dataset_info
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.measure.accuracy import accuracy
from yolo_slim.training.folder import train_in
from yolo_slim.training.holding import SETTINGS, HoldingTrainer
from yolo_slim.training.plans import load_plan, save_plan

OTHER = 10_000
"""Added to the seed for the control's weights."""
REWIND = "rewind.yaml"
"""In a run folder: the epoch to go back to."""


class RewindingTrainer(HoldingTrainer):
    """HoldingTrainer that keeps the live weights of the epoch to go back to, beside `last.pt`, in `rewind.pt`."""

    def save_model(self) -> bool:
        """The early weights first: a kill in between costs the epoch, not them."""
        run = Path(self.save_dir)
        if self.epoch + 1 == yaml.safe_load((run / REWIND).read_text())["epoch"]:
            early = checkpoint.load(self.args.model)
            early.load_state_dict(self.live_state())
            checkpoint.save(early, run / "rewind.pt")
        return super().save_model()


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    """Run what is left to do, and print the table; the rows."""
    args = arguments(words)
    rows = record.read_json(args.out / "rows.json") or {}
    if not args.print:
        rows = go_on(args, rows)
    found = list(rows.get("rows", {}).values())
    print(table(found))
    return found


def go_on(args: argparse.Namespace, rows: dict[str, Any]) -> dict[str, Any]:
    """Round by round; every row is kept as soon as it is there.

    Raises:
        SlimError: the folder holds rounds with other settings.
    """
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("print", "out", "rounds", "device")}
    if rows and rows["settings"] != settings:
        raise SlimError(f"{args.out} holds rounds with other settings, {rows['settings']}: choose another --out")
    rows = rows or {"settings": settings, "rows": {}}

    def row(kind: str, number: int, left: float, weights: Path) -> None:
        key = f"{number} {kind}"
        if key not in rows["rows"]:
            found = accuracy(checkpoint.load(weights), args.data, args.imgsz, args.split, args.device)
            rows["rows"][key] = {"round": number, "kind": kind, "left": left, **{k: found[k] for k in MEASURED}}
            record.write_json(args.out / "rows.json", rows)

    start, other = (built(args, args.seed + more, name) for more, name in ((0, "start.pt"), (OTHER, "other.pt")))
    trained = train(args, "dense", start, None, args.epochs, rewinds=True)
    row("dense", 0, 1.0, trained / "best.pt")
    early = trained.parent / "rewind.pt" if args.rewind else start
    step = channels if args.structured else weights
    for number in range(1, args.rounds + 1):
        pieces = step(args, number, trained, early, other)
        left = pieces["left"]
        trained = train(args, f"ticket{number}", pieces["ticket"], pieces["plan"], args.epochs - args.rewind)
        row("ticket", number, left, trained / "best.pt")
        control = train(args, f"control{number}", pieces["control"], pieces["plan"], args.epochs)
        row("control", number, left, control / "best.pt")
        early = pieces["ticket"] if args.structured else early
        other = pieces["control"] if args.structured else other
    return rows


MEASURED = ("map50", "map50_95")


def weights(args: argparse.Namespace, number: int, trained: Path, early: Path, other: Path) -> dict[str, Any]:
    """A round's mask, and what is trained under it: the ticket and its control. What is there is not made again."""
    plan, before = (args.out / f"round{n}.plan" for n in (number, number - 1))
    if not plan.exists():
        judged = checkpoint.load(trained / "last.pt")
        masks = load_plan(before).tensors if number > 1 else all_left(judged, trace(judged, args.imgsz))
        after = next_round(judged, masks, args.prune)
        layers = {name.removesuffix(".weight"): {"left": int(mask.sum())} for name, mask in after.items()}
        save_plan(Plan(layers, dict(after)), plan)
    after = load_plan(plan).tensors
    made = {kind: args.out / f"{kind}{number}.pt" for kind in ("ticket", "control")}
    for kind, source in (("ticket", early), ("control", other)):
        if not made[kind].exists():  # a file made again has another date, and its training would begin anew
            checkpoint.save(rewound(checkpoint.load(source), after), made[kind])
    counts = [(int(mask.sum()), mask.numel()) for mask in after.values()]
    return {**made, "plan": plan, "left": sum(left for left, _ in counts) / sum(whole for _, whole in counts)}


def channels(args: argparse.Namespace, number: int, trained: Path, early: Path, other: Path) -> dict[str, Any]:
    """A round's cut of channels, of early weights with the statistics of their batch norms, and of the control's."""
    judged = checkpoint.load(trained / "last.pt")
    how = {"criterion": "l1", "ratio": args.prune, "round_to": 1, "absorb": "none", "recalibrate": 0}
    made = {kind: args.out / f"{kind}{number}.pt" for kind in ("ticket", "control")}
    if not all(file.exists() for file in made.values()):
        kept = prune(judged, imgsz=args.imgsz, **how).narrower
        for kind, source in (("ticket", early), ("control", other)):
            cut = replay(checkpoint.load(source), args.imgsz, Cut(kept))
            checkpoint.mark_slim(cut, kept)
            checkpoint.save(cut, made[kind])
    sizes = [parameters(file) for file in (made["ticket"], args.out / "start.pt")]
    return {**made, "plan": None, "left": sizes[0] / sizes[1]}


def parameters(file: Path) -> int:
    """How many a detector has."""
    return sum(p.numel() for p in checkpoint.load(file).parameters())


def built(args: argparse.Namespace, seed: int, name: str) -> Path:
    """A detector of random weights, for the classes of the data."""
    if not (file := args.out / name).exists():
        info = dataset_info(args.data)
        torch.manual_seed(seed)
        detector: Detector = checkpoint.build(args.model, info["nc"])
        detector.names = info["names"]
        checkpoint.save(detector, file)
    return file


def train(
    args: argparse.Namespace, name: str, start: Path, plan: Path | None, epochs: int, rewinds: bool = False
) -> Path:
    """Train, or go on where it was stopped; the folder of its weights. The rate goes on from where it was early on."""
    passed = args.epochs - epochs
    rate = 1 - passed / args.epochs * (1 - args.lrf)  # Ultralytics' line from 1 to lrf
    warmup = max(min(args.warmup, args.epochs - 1) - passed, 0)
    held = [{"method": "weights", "plan": str(plan.resolve())}] if plan else []
    settings = {"epoch": args.rewind if rewinds else 0}
    how = {"data": args.data, "epochs": epochs, "imgsz": args.imgsz, "batch": args.batch, "device": args.device,
           "seed": args.seed, "optimizer": "SGD", "lr0": args.lr0 * rate, "lrf": args.lrf / rate,
           "warmup_epochs": warmup, "warmup_bias_lr": 0.0, "workers": args.workers, "nbs": args.batch}  # fmt: skip
    files = {REWIND: settings, SETTINGS: held}
    return train_in(
        args.out / name, RewindingTrainer, start, settings=settings, inputs=[start, *([plan] if plan else [])],
        extra=files, arguments=how,
    )  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line a round."""
    lines = ["| round | left | ticket mAP50-95 | control mAP50-95 |", "|---|---|---|---|"]
    for number in sorted({row["round"] for row in rows}):
        of = {row["kind"]: row for row in rows if row["round"] == number}
        cells = [f"{of[kind]['map50_95']:.3f}" if kind in of else "" for kind in ("ticket", "control")]
        if number == 0:
            cells = [f"{of['dense']['map50_95']:.3f} (dense)", ""]
        lines.append(f"| {number} | {next(iter(of.values()))['left']:.1%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def arguments(words: list[str] | None) -> argparse.Namespace:
    """As given on the command line, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="yolov5n.yaml", help="a model YAML: tickets are found from random weights")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/lottery"))
    parser.add_argument("--rounds", type=int, default=5, help="more may be asked for later")
    parser.add_argument("--prune", type=float, default=0.2, help="share of what is left that each round takes out")
    parser.add_argument("--rewind", type=int, default=1, help="epoch to go back to; 0: the start")
    parser.add_argument("--structured", action="store_true", help="channels instead of weights")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr0", type=float, default=0.01)
    parser.add_argument("--lrf", type=float, default=0.01)
    parser.add_argument("--warmup", type=float, default=3.0, help="epochs over which the rate rises")
    parser.add_argument("--split", default="val", help="of the data set, to measure on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--print", action="store_true", help="only what is there")
    args = parser.parse_args(words)
    if not args.model.endswith((".yaml", ".yml")):
        parser.error(f"--model: expected a model YAML, got {args.model}: a trained detector has had its lottery")
    if not 0 <= args.rewind < args.epochs:
        parser.error(f"--rewind: expected an epoch from 0 to below {args.epochs}, got {args.rewind}")
    if not 0 < args.prune < 1 or args.rounds < 1:
        parser.error("--prune: expected a share between 0 and 1, and --rounds from 1 on")
    return args


if __name__ == "__main__":
    main()
