"""The recipes: one stage a file, read top to bottom. Each is a function of a Config and ends by writing its record.

What the command line has to know of a stage stands here: its name, the settings it reads, its help. Nothing of it is
imported before it is asked for: torch takes seconds, and help and mistakes need none of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One command: what it does, what it reads, and where its recipe is."""

    recipe: str  # module:function of a Config
    help: str  # what it does, after "yolo-slim NAME"
    sections: tuple[str, ...]  # of the settings that it reads, beside the general ones
    example: str  # a command

    def __call__(self, config: Any) -> Any:
        """Run it: the recipe is imported only now."""
        return self.function(config)

    @property
    def function(self) -> Any:
        """The recipe."""
        module, _, name = self.recipe.partition(":")
        return getattr(import_module(module), name)


STAGES = {
    "init": Stage(
        "yolo_slim.stages.init:init",
        "write a YAML for a model and a data set, with all there is to set and what it means",
        ("init",),
        "yolo-slim init model=best.pt data=my.yaml init.to=mine.yaml",
    ),
    "run": Stage(
        "yolo_slim.stages.run:run",
        "all stages in order, skipping what is done",
        ("original", "sparse_train", "prune", "latency", "recover", "finetune", "export", "bench", "report"),
        "yolo-slim run model=best.pt data=my.yaml prune.target.flops=0.5",
    ),
    "plan": Stage(
        "yolo_slim.stages.plan:plan",
        "which channels go, to a ratio or a budget: what sparse-train and prune follow, and make where it is missing",
        ("original", "sparse_train", "prune", "latency"),
        "yolo-slim plan model=best.pt data=my.yaml prune.target.flops=0.5",
    ),
    "sparse-train": Stage(
        "yolo_slim.stages.sparse_train:sparse_train",
        "bring the channels that will go to zero while training goes on, where that pays (sparse_train.mode)",
        ("original", "sparse_train", "prune", "latency"),
        "yolo-slim sparse-train configs/bccd.yaml sparse_train.epochs=20",
    ),
    "prune": Stage(
        "yolo_slim.stages.prune:prune_stage",
        "remove channels to a ratio or a budget, prove the cut, recover",
        ("original", "sparse_train", "prune", "latency", "finetune"),
        "yolo-slim prune model=best.pt data=my.yaml prune.ratio=0.4 prune.criterion=l1",
    ),
    "sensitivity": Stage(
        "yolo_slim.stages.sensitivity:sensitivity",
        "how much worse the detector gets when one group alone loses channels: a scan, saved and plotted",
        ("original", "sparse_train", "prune"),
        "yolo-slim sensitivity model=best.pt data=my.yaml prune.sensitivity.images=64",
    ),
    "recover": Stage(
        "yolo_slim.stages.recover:recover",
        "train the slim detector, for minutes and without labels, to say what the original says (recover.match)",
        ("recover",),
        "yolo-slim recover configs/bccd.yaml recover.match.seconds=600 images=pictures",
    ),
    "finetune": Stage(
        "yolo_slim.stages.finetune:finetune",
        "train the slim detector, which stays slim; where much is lost, the unpruned one teaches it (finetune.distill)",
        ("recover", "finetune"),
        "yolo-slim finetune configs/bccd.yaml finetune.epochs=50",
    ),
    "compress": Stage(
        "yolo_slim.stages.compress:compress",
        "other methods than channel pruning, in the order that `compress` names them: zeros, low rank, codebooks, ...",
        ("original", "prune"),
        "yolo-slim compress configs/bccd.yaml 'compress=[prune, {weights: {sparsity: 0.5, epochs: 10}}]'",
    ),
    "report": Stage(
        "yolo_slim.stages.report:report_stage",
        "parameters, FLOPs, mAP and latency of every stage side by side, with plots",
        ("report",),
        "yolo-slim report configs/bccd.yaml",
    ),
    "bench": Stage(
        "yolo_slim.stages.bench:bench",
        "latency of the original and the slim detector in every runtime here, and where FLOPs became no speed",
        ("bench",),
        "yolo-slim bench configs/bccd.yaml bench.runtimes=[openvino]",
    ),
    "export": Stage(
        "yolo_slim.stages.export:export",
        "write ONNX, OpenVINO, NCNN, ... or INT8 files and compare each with PyTorch on real images",
        ("export",),
        "yolo-slim export configs/bccd.yaml",
    ),
    "sweep": Stage(
        "yolo_slim.stages.sweep:sweep",
        "criterion x target x recovery without training: one table, one plot, the target to ask for",
        ("original", "prune", "latency", "sweep", "report"),
        "yolo-slim sweep model=best.pt data=my.yaml sweep.flops=[0.8,0.6]",
    ),
    "convert": Stage(
        "yolo_slim.stages.convert:convert",
        "write a detector as another kind of file without loss: YOLOv5 or Darknet to ONNX, cfg and weights to .pt",
        ("convert",),
        "yolo-slim convert model=yolov3.cfg convert.to=yolov3.onnx",
    ),
    "pack": Stage(
        "yolo_slim.stages.pack:pack",
        "write a checkpoint as one small file, from which it comes back byte for byte; a table of sizes by layer",
        ("pack",),
        "yolo-slim pack model=slim.pt pack.to=slim.yslim",
    ),
    "unpack": Stage(
        "yolo_slim.stages.unpack:unpack",
        "the checkpoint in a packed file, as it was",
        ("unpack",),
        "yolo-slim unpack model=slim.yslim unpack.to=again.pt",
    ),
    "inspect": Stage(
        "yolo_slim.stages.inspect:inspect",
        "a detector's layers: widths, groups, what must stay and why; and how a slim one came about",
        (),
        "yolo-slim inspect best.pt imgsz=320",
    ),
}
"""Name -> stage, in the order of `yolo-slim --help`. One of your own is put in here."""
