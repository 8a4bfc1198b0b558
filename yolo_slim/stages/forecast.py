"""--dry-run: which stages a command would do, and about how long they take; nothing is done."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from yolo_slim.config import Complete, Config
from yolo_slim.console import console, duration, quietly
from yolo_slim.errors import SlimError
from yolo_slim.runs.dry import ToBeDone, dry
from yolo_slim.runs.given import complete
from yolo_slim.stages import Stage
from yolo_slim.stages.ahead import IMAGES, ahead_of, pace_of
from yolo_slim.stages.auto import TRIAL, trained, undecided
from yolo_slim.stages.chain import chain_of
from yolo_slim.stages.export import missing
from yolo_slim.stages.modes import landing_mode
from yolo_slim.stages.trial import in_the_way


def foresee(name: str, stage: Stage, asked: Config) -> None:
    """Print what a stage would do.

    Args:
        name: of the stage, as it is typed.
        stage: its recipe.
        asked: the settings.

    Raises:
        SlimError: the settings are wrong, as far as that shows before anything is done; or it is done at once.
    """
    if not getattr(stage.function, "in_run", False):
        raise SlimError(f"--dry-run: {name} is no stage of a run, and done at once: leave it out")
    config = complete(asked)
    try:
        with dry(), quietly():
            stage(config)
    except ToBeDone as first:
        _tell(config, name, first)
    else:
        console.print(f"{name}: all is done in {config.folder}; nothing would be done again", markup=False)


def _tell(config: Complete, name: str, first: ToBeDone) -> None:
    top = first.stage.partition("/")[0]
    stages = list(dict.fromkeys(stages_of(config, name)))
    begin = stages.index(top) if top in stages else 0
    if stages[:begin]:
        console.print(f"done before, in {config.folder}: {', '.join(stages[:begin])}", markup=False)
    if first.changes:
        console.print(f"{first.stage} would be done again: {'; '.join(first.changes)}", markup=False)
    with quietly():
        pace = pace_of(config)
        ahead = [ahead_of(config, stage, pace) for stage in (stages[begin:] if top in stages else [top])]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column, right in (("stage", False), ("what would be done", False), ("about", True)):
        table.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for each in ahead:
        table.add_row(Text(each.stage), Text(each.what), "" if each.seconds is None else duration(each.seconds))
    console.print(table, soft_wrap=False)
    told = [each.seconds for each in ahead if each.seconds is not None]
    if told:
        console.print(
            f"About {duration(sum(told))} of computing on {config.device}, going by a step on {IMAGES} images that was "
            "timed just now; reading images, least squares, exports and reports come on top"
        )
    console.print("Nothing was done. The same command without --dry-run does it")


def stages_of(config: Complete, name: str) -> Iterator[str]:
    """The folders that a command fills or goes by, in order."""
    chain = chain_of(config)
    if name in ("recover", "finetune", "export", "bench", "report"):
        yield {"recover": "recovered", "finetune": "finetuned"}.get(name, name)
        return
    yield "original"
    if name == "compress":
        yield "compressed"
        return
    if chain.before and name != "sweep":
        yield "reshaped"
    if name in ("sweep", "sensitivity"):
        yield name
        return
    if chain.prunes:
        yield from _pruning(config, name)
    if name == "run":
        yield from (["compressed"] if chain.behind else [])
        yield from (["export"] if config.export.formats + config.export.int8 and not missing(config) else [])
        yield from (["bench"] if config.bench else [])
        yield "report"


def _pruning(config: Complete, name: str) -> Iterator[str]:
    if config.prune.solver == "sensitivity":
        yield "sensitivity"
    if name in ("run", "sparse-train") and config.sparse_train.epochs and config.data:
        if undecided(config):
            yield from ([] if in_the_way(trained(config, mode="targeted")) else ["plan", TRIAL, "sparse"])
        else:
            yield from (["plan", "sparse"] if landing_mode(config) == "targeted" else ["sparse"])
    if name == "sparse-train":
        return
    yield "plan"
    if name == "plan":
        return
    yield "pruned"
    if name == "run":
        yield from (["recovered"] if config.recover.match else [])
        yield from (["finetuned"] if config.data else [])
