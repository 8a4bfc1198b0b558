"""Does a detector that is trained from scratch learn more beside another? Three ways, each with a plain control.

    python scripts/teach.py --how rocket --model yolov5n.yaml --data data/bccd/bccd.yaml --epochs 60
    python scripts/teach.py --how one --branches 2 --model yolov5n.yaml --data data/bccd/bccd.yaml --epochs 60
    python scripts/teach.py --how sobolev --teacher best.pt --model yolov5n.yaml --data data/bccd/bccd.yaml
    python scripts/teach.py --how rocket ... --print                                          # what is there by now

rocket: a booster with a deeper neck shares the backbone; what it says of classes pulls the light detector (Zhou et al.,
AAAI 2018, arXiv:1708.04106; `yolo_slim/distill/rocket.py`). one: further necks and heads above the same backbone, all
of which learn from what they say together (Lan et al., NeurIPS 2018, arXiv:1806.04606; `distill/one.py`). sobolev: the
student's confidence shall change with the pixels as the teacher's does (Czarnecki et al., arXiv:1706.04859;
`distill/sobolev.py`); the teacher is a .pt of the same classes, or the control where none is given.

The control begins with the same random weights, and sees the same images in the same order, but for what chance draws
beside. What is kept is the light detector alone: boosters, branches and gates lie beside it and are thrown away, so
that its file is stock. What a step costs is timed in the end, both in turn, and printed as a ratio to the plain one.

For pruned detectors none of this is meant: they share no tensor with what they were cut from, and the original teaches
them (`finetune.distill`). Stopped at any moment, the same command goes on. On one device.
"""

from __future__ import annotations

import argparse
import copy
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from bench_sparse_step import interleaved, prepared  # beside this file
from lottery import built, parameters
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from yolo_slim import checkpoint, record
from yolo_slim.channels import image_channels
from yolo_slim.channels.surgery import evaluating
from yolo_slim.distill.one import RAMP_EPOCHS, Gate, ensemble, lesson, ramp
from yolo_slim.distill.rocket import GAMMA, hint
from yolo_slim.distill.sobolev import confidence, sobolev
from yolo_slim.errors import SlimError
from yolo_slim.formats.detector import Detector
from yolo_slim.heads import bins_of, classes_of, raw
from yolo_slim.measure.accuracy import accuracy
from yolo_slim.training.folder import train_in
from yolo_slim.training.stepping import SteppingTrainer
from yolo_slim.training.teacher import Taps
from yolo_slim.training.trainer import SlimTrainer

SETTINGS = "teach.yaml"
"""In the run folder: how, and what that wants to know."""
DEEPER = re.compile(r"C\d\w*|BottleneckCSP")
"""Modules of a model YAML that repeat blocks inside."""
PAPER_EPOCHS = 300
"""Of ONE's experiments, in `RAMP_EPOCHS` of which the lesson comes to its weight."""
MEASURED = ("map50", "map50_95")


# ---------------------------------------------------------------------------------------------------------------------
# What learns beside


class Beside(nn.Module):
    """Necks and heads above the backbone of a detector, with the maps that they read of it."""

    def __init__(self, light: Detector, uppers: list[dict[str, Any]], seed: int) -> None:
        super().__init__()
        self.split = len(light.yaml["backbone"])
        self.branches = nn.ModuleList()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for described in uppers:
                branch = DetectionModel(described, image_channels(light), classes_of(light), verbose=False)
                for i in range(self.split):
                    branch.model[i] = nn.Identity()
                self.branches.append(branch)
        read = {self._at(layer.i, f) for branch in self.branches for layer in branch.model[self.split :]
                for f in ([layer.f] if isinstance(layer.f, int) else layer.f)}  # fmt: skip
        self.read = sorted({self.split - 1, *(i for i in read if i < self.split)})
        self.taps = Taps(light, [f"model.{i}" for i in self.read], "the light detector")

    @staticmethod
    def _at(i: int, f: int) -> int:
        return f if f >= 0 else i + f

    def said(self) -> list[Mapping[str, Any]]:
        """What each branch says of the images that the detector has just looked at."""
        trunk = dict(zip(self.read, self.taps.caught(), strict=True))
        found = []
        for branch in self.branches:
            maps: dict[int, Any] = dict(trunk)
            for layer in branch.model[self.split :]:
                at = [self._at(layer.i, f) for f in ([layer.f] if isinstance(layer.f, int) else layer.f)]
                maps[layer.i] = layer(maps[at[0]] if isinstance(layer.f, int) else [maps[i] for i in at])
            found.append(raw(maps[layer.i]))
        return found

    def begin(self, trainer: SteppingTrainer) -> None:
        """Losses, with the arguments of the training."""
        for branch in self.branches:
            branch.args = trainer.args
        self.criteria = [branch.init_criterion() for branch in self.branches]

    def loss(self, preds: Any, batch: Mapping[str, Any], base: Callable, epoch: float, epochs: int) -> Tensor:
        """What is added to the detector's own, a mean over images.

        Args:
            preds: what the detector says, in train mode.
            batch: of Ultralytics.
            base: the detector's own loss.
            epoch: that is done, with its fraction.
            epochs: of the training.
        """
        raise NotImplementedError


class Rocket(Beside):
    """A booster with a deeper neck."""

    def __init__(self, light: Detector, settings: Mapping[str, Any]) -> None:
        super().__init__(light, [deeper(light.yaml, settings["depth"])], settings["seed"])
        self.weight = settings["weight"]

    def loss(self, preds: Any, batch: Mapping[str, Any], base: Callable, epoch: float, epochs: int) -> Tensor:
        """The booster's own, and the hint: the paper's logits of an image are here those of each point of the maps."""
        (booster,) = self.said()
        (criterion,) = self.criteria
        own, _ = criterion(booster, batch)
        light, heavy = (each["scores"].permute(0, 2, 1).flatten(0, 1) for each in (raw(preds), booster))
        return own.sum() / len(batch["img"]) + hint(light, heavy, self.weight * GAMMA)


def deeper(described: Mapping[str, Any], times: int) -> dict[str, Any]:
    """A model YAML whose neck repeats its blocks so many times as often.

    Raises:
        SlimError: it has none that could be repeated.
    """
    new = copy.deepcopy(dict(described))
    some = [entry for entry in new["head"] if DEEPER.fullmatch(entry[2])]
    if not some:
        raise SlimError("--how rocket: the neck of --model has no blocks that a booster could repeat (C3, C2f, ...)")
    for entry in some:
        entry[1] *= times
    return new


class One(Beside):
    """Further branches, and the gate that says what each counts for."""

    def __init__(self, light: Detector, settings: Mapping[str, Any]) -> None:
        super().__init__(light, [dict(light.yaml)] * (settings["branches"] - 1), settings["seed"])
        with torch.no_grad(), evaluating(light):
            self.taps.open()
            light(torch.zeros(1, image_channels(light), 64, 64))
            channels = self.taps.caught()[-1].shape[1]
            self.taps.close()
        self.gate, self.weight = Gate(channels, settings["branches"]), settings["weight"]

    def loss(self, preds: Any, batch: Mapping[str, Any], base: Callable, epoch: float, epochs: int) -> Tensor:
        """The branches' own, that of what all say together, and the lesson of that."""
        further, gate = self.said(), self.gate(self.taps.caught()[-1])
        every = [raw(preds), *further]
        joined = {name: ensemble([said[name] for said in every], gate) for name in ("boxes", "scores")}
        together = {**every[0], **joined}
        own = sum(criterion(said, batch)[0].sum() for criterion, said in zip(self.criteria, further, strict=True))
        own = own + base(together, batch)[0].sum()
        share = ramp(epoch, RAMP_EPOCHS / PAPER_EPOCHS * epochs)
        return own / len(batch["img"]) + self.weight * share * lesson(
            [said["scores"] for said in every], joined["scores"]
        )


class Sobolev(Beside):
    """Nothing beside but a teacher, which is not trained."""

    def __init__(self, light: Detector, settings: Mapping[str, Any]) -> None:
        super().__init__(light, [], settings["seed"])
        teacher = checkpoint.load(settings["teacher"]).requires_grad_(False)
        if classes_of(teacher) != classes_of(light):
            raise SlimError(
                f"--teacher: expected the {classes_of(light)} classes of the data, got {classes_of(teacher)} of them"
            )
        self.around = [light, teacher]  # no parts of this: neither saved with it nor trained by it
        self.weight = settings["weight"]

    def begin(self, trainer: SteppingTrainer) -> None:
        """The teacher to where the images are."""
        super().begin(trainer)
        self.around[1].to(trainer.device)

    def loss(self, preds: Any, batch: Mapping[str, Any], base: Callable, epoch: float, epochs: int) -> Tensor:
        """How differently both confidences hang on the pixels; the images are looked at once more for it."""
        light, teacher = self.around
        images = batch["img"].float()
        with still(light), torch.autocast(images.device.type, enabled=False):
            return self.weight * sobolev(_confident(light), _confident(teacher), images, value=0.0)


def _confident(detector: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda images: confidence(raw(detector(images))["scores"])


@contextmanager
def still(detector: nn.Module) -> Iterator[None]:
    """Its batch norms look at the batch and remember nothing of it."""
    norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


HOW: dict[str, type[Beside]] = {"rocket": Rocket, "one": One, "sobolev": Sobolev}


class TaughtTrainer(SteppingTrainer):
    """SteppingTrainer with what `SETTINGS` names beside the detector: `last.pt` keeps it, the detector does not."""

    def setup_model(self) -> dict[str, Any] | None:
        """The detector, then what learns beside it."""
        ckpt = super().setup_model()
        settings = yaml.safe_load((Path(self.save_dir) / SETTINGS).read_text())
        self.beside = HOW[settings["how"]](self.detector, settings).to(self.device)
        return ckpt

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Ultralytics' optimizer of both."""
        return super().build_optimizer(nn.ModuleList([model, self.beside]), *args, **kwargs)

    def _setup_train(self) -> None:
        super()._setup_train()
        self.beside.begin(self)
        self.detector.criterion = _AndMore(self.detector.criterion or self.detector.init_criterion(), self)
        self.add_callback("on_train_batch_start", lambda trainer: trainer.beside.taps.open())
        self.add_callback("on_train_batch_end", lambda trainer: trainer.beside.taps.close())

    def extra_state(self) -> dict[str, Any]:
        """What learns beside, for a resume."""
        return {**super().extra_state(), "distill": {k: v.cpu() for k, v in self.beside.state_dict().items()}}

    def _load_checkpoint_state(self, ckpt: dict[str, Any]) -> None:
        super()._load_checkpoint_state(ckpt)
        self.beside.load_state_dict(ckpt["distill"])


class _AndMore:
    """Ultralytics' criterion and what is added to it, scaled with the batch as Ultralytics scales its own."""

    def __init__(self, base: Callable, trainer: TaughtTrainer) -> None:
        self.base, self.trainer = base, trainer

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, items = self.base(preds, batch)
        at = self.trainer.epoch + self.trainer.batches / len(self.trainer.train_loader)
        more = self.trainer.beside.loss(preds, batch, self.base, at, self.trainer.epochs)
        return loss.sum() + more * len(batch["img"]), items

    def __deepcopy__(self, memo: dict) -> Callable:  # a copy of the detector is one without
        return copy.deepcopy(self.base, memo)

    def __getattr__(self, name: str) -> Any:  # `update`, where Ultralytics' criterion has one
        return getattr(self.__dict__["base"], name)


# ---------------------------------------------------------------------------------------------------------------------
# The run


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Train what is missing, time a step, and print the table; what is kept of it."""
    args = arguments(words)
    rows = record.read_json(args.out / "rows.json") or {}
    if not args.print:
        rows = go_on(args, rows)
    print(table(rows))
    return rows


def go_on(args: argparse.Namespace, rows: dict[str, Any]) -> dict[str, Any]:
    """The control, the one that is taught, and the cost of a step; each is kept as soon as it is there.

    Raises:
        SlimError: the folder holds rows with other settings, or the head has no bins.
    """
    said = {k: str(v) for k, v in vars(args).items() if k not in ("print", "out", "device", "steps")}
    if rows and rows["settings"] != said:
        raise SlimError(f"{args.out} holds rows with other settings, {rows['settings']}: choose another --out")
    rows = rows or {"settings": said, "rows": {}}
    start = built(args, args.seed, "start.pt")
    light = checkpoint.load(start)
    if bins_of(light) is None or light.yaml.get("end2end"):
        raise SlimError("--model: expected a head with bins and without one-to-one predictions, such as yolov5n.yaml's")

    def row(kind: str, found: Callable[[], dict[str, Any]]) -> None:
        if kind not in rows["rows"]:
            rows["rows"][kind] = found()
            record.write_json(args.out / "rows.json", rows)

    def measured(weights: Path) -> dict[str, Any]:
        told = accuracy(checkpoint.load(weights), args.data, args.imgsz, args.split, args.device)
        return {**{name: told[name] for name in MEASURED}, "params": parameters(weights)}

    plain = trained(args, "plain", SlimTrainer, start, {})
    row("plain", lambda: measured(plain / "best.pt"))
    teacher = args.teacher or plain / "best.pt"
    settings = {"how": args.how, "weight": args.weight, "depth": args.depth, "branches": args.branches,
                "seed": args.seed + 1, "teacher": str(Path(teacher).absolute())}  # fmt: skip
    taught = trained(args, args.how, TaughtTrainer, start, settings)
    row(args.how, lambda: measured(taught / "best.pt"))
    row("step", lambda: step_cost(args, start, settings))
    return rows


def trained(
    args: argparse.Namespace, name: str, trainer: type[SlimTrainer], start: Path, settings: dict[str, Any]
) -> Path:
    """Train, or go on where it was stopped; the folder of its weights."""
    how = {"data": args.data, "epochs": args.epochs, "imgsz": args.imgsz, "batch": args.batch, "device": args.device,
           "seed": args.seed, "optimizer": "SGD", "lr0": args.lr0, "warmup_epochs": args.warmup,
           "workers": args.workers, "nbs": args.batch}  # fmt: skip
    inputs = [start, *([Path(settings["teacher"])] if settings and args.how == "sobolev" else [])]
    return train_in(
        args.out / name, trainer, start, settings=settings, inputs=inputs, extra={SETTINGS: settings}, arguments=how
    )


def step_cost(args: argparse.Namespace, start: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a step, and its ratio to a plain one: the median of pairs, one after the other."""
    given = argparse.Namespace(model=str(start), imgsz=args.imgsz, batch=args.batch)
    with tempfile.TemporaryDirectory() as place:
        trainers = {
            name: prepared(trainer, Path(place) / name, Path(args.data), given, files, device=args.device,
                           workers=0, optimizer="SGD")
            for name, trainer, files in (("plain", SlimTrainer, {}), (args.how, TaughtTrainer, {SETTINGS: settings}))
        }  # fmt: skip
        times = {name: np.array(seconds) for name, seconds in interleaved(trainers, args.steps).items()}
    ms = {name: float(np.median(seconds) * 1e3) for name, seconds in times.items()}
    return {"ms": ms, "ratio": float(np.median(times[args.how] / times["plain"])), "threads": torch.get_num_threads()}


def table(rows: Mapping[str, Any]) -> str:
    """Markdown: the control and the other, with what a step costs."""
    there = rows.get("rows", {})
    step = there.get("step")
    lines = ["| trained | params | mAP50 | mAP50-95 | ms a step | of plain |", "|---|---:|---:|---:|---:|---:|"]
    for kind, row in there.items():
        if kind == "step":
            continue
        cost = [f"{step['ms'][kind]:.0f}", f"{1.0 if kind == 'plain' else step['ratio']:.2f}"] if step else ["", ""]
        cells = [kind, f"{row['params']:,}", *(f"{row[name]:.3f}" for name in MEASURED), *cost]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def arguments(words: list[str] | None) -> argparse.Namespace:
    """As given on the command line, checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--how", required=True, choices=HOW)
    parser.add_argument(
        "--model", default="yolov5n.yaml", help="a model YAML: all of this is for training from scratch"
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, help="default: runs/teach_HOW")
    parser.add_argument(
        "--weight", type=float, default=1.0, help="of what is learned from the other, beside the paper's"
    )
    parser.add_argument("--depth", type=int, default=3, help="rocket: times the blocks of the booster's neck")
    parser.add_argument("--branches", type=int, default=2, help="one: with the detector's own neck and head")
    parser.add_argument("--teacher", type=Path, help="sobolev: a .pt of the same classes; default: the control")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr0", type=float, default=0.01)
    parser.add_argument("--warmup", type=float, default=3.0, help="epochs over which the rate rises")
    parser.add_argument("--steps", type=int, default=20, help="to time, of each")
    parser.add_argument("--split", default="val", help="of the data set, to measure on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--print", action="store_true", help="only what is there")
    args = parser.parse_args(words)
    args.out = args.out or Path("runs") / f"teach_{args.how}"
    if not args.model.endswith((".yaml", ".yml")):
        parser.error(
            f"--model: expected a model YAML, got {args.model}: a trained detector is taught by finetune.distill"
        )
    if args.depth < 2 or args.branches < 2 or min(args.epochs, args.steps) < 1:
        parser.error("--depth and --branches: expected 2 or more, --epochs and --steps 1 or more")
    return args


if __name__ == "__main__":
    main()
