"""SIGKILL, for real: whatever moment it hits, the same command typed again goes on and comes to the end."""

from __future__ import annotations

import csv
import json
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked
import pytest
import torch
import yaml
from training_helpers import PX, draw_shapes, saved, tiny, widths

from yolo_slim import checkpoint, record
from yolo_slim.config import SparseTrain

EPOCHS = 5  # enough of them that the poll cannot miss the training, and a total that no other progress bar has
PATIENCE = 120.0  # seconds until a moment that does not come is given up


class Command:
    """`yolo-slim run` (or another stage) on one configuration, in a process of its own, again and again."""

    def __init__(self, folder: Path, stage: str = "run", **changed: object) -> None:
        self.folder, self.runs, self.starts, self.stage = folder, folder / "runs" / "kill", 0, stage
        torch.manual_seed(0)
        settings = {
            "name": "kill",
            "model": str(saved(tiny(folder), folder / "model.pt")),
            "data": draw_shapes(folder),
            "imgsz": PX,
            "runs": str(folder / "runs"),
            "sparse_train": {"mode": "uniform", "epochs": EPOCHS, "train": {"batch": 4, "nbs": 4, "optimizer": "SGD"}},
            "prune": {"ratio": 0.3, "round_to": 4, "min_channels": 4, "criterion": "l1"},
            "finetune": {"epochs": EPOCHS, "distill": {"teacher": "original"}, "train": {"batch": 4, "nbs": 4}},
            "report": {"latency_runs": 2},
            "export": {"formats": [], "images": 1},
            "bench": None,
            **changed,
        }
        self.config = folder / "kill.yaml"
        self.config.write_text(yaml.safe_dump(settings))

    def start(self) -> tuple[BaseProcess, Path]:
        """The process and the file that its output goes to."""
        self.starts += 1
        log = self.folder / f"log{self.starts}.txt"
        return forked.start([self.stage, str(self.config)], self.folder, log), log

    def kill_when(self, moment: Callable[[str], bool]) -> str:
        """Start it, kill it as soon as `moment(its output)` has come, and return the output."""
        process, log = self.start()
        deadline = time.monotonic() + PATIENCE
        try:
            while not moment(log.read_text()):
                assert process.is_alive(), f"it ended before that moment:\n{log.read_text()[-3000:]}"
                assert time.monotonic() < deadline, f"that moment did not come:\n{log.read_text()[-3000:]}"
                time.sleep(0.005)
        finally:
            process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        return log.read_text()

    def to_the_end(self) -> str:
        """Run it through; its output."""
        process, log = self.start()
        try:
            process.join(PATIENCE)
        finally:
            process.kill()
        assert process.exitcode == 0, log.read_text()[-3000:]
        return log.read_text()

    def done(self) -> list[str]:
        """Stages whose record is there and whose outputs are as it says."""
        stages = ("original", "sparse", "pruned", "finetuned", "report")
        found = [stage for stage in stages if record.read(self.runs / stage)]
        assert found == [stage for stage in stages if (self.runs / stage / record.FILE).exists()]
        return found


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Four kills in one run folder and a run to the end: (command, output of each start, stages done after each)."""
    command = Command(tmp_path_factory.mktemp("kill"))
    sparse, finetuned = (command.runs / stage / "train" / "weights" / "last.pt" for stage in ("sparse", "finetuned"))
    outputs, done = [], []
    for moment in (
        lambda output: "Starting training for" in output,  # a: in the first epoch of sparse training
        lambda output: sparse.exists(),  # b: after an epoch of it
        lambda output: (command.runs / "pruned").exists(),  # c: while pruning
        lambda output: finetuned.exists(),  # d: after an epoch of fine-tuning
    ):
        outputs.append(command.kill_when(moment))
        done.append(command.done())
    outputs.append(command.to_the_end())
    return command, outputs, [*done, command.done()]


def test_a_killed_stage_has_no_record(story):
    _, _, done = story
    assert done == [
        ["original"],
        ["original"],
        ["original", "sparse"],
        ["original", "sparse", "pruned"],
        ["original", "sparse", "pruned", "finetuned", "report"],
    ]


def test_training_goes_on_from_its_last_epoch(story):
    _, (first, second, third, fourth, fifth), _ = story
    assert "going on after epoch" not in first + second + fourth, "nothing to go on from"
    for output in (third, fifth):
        assert "going on after epoch" in output and "Resuming training" in output
        went_on = int(output.split("going on after epoch ")[1].split()[0])
        assert 1 <= went_on < EPOCHS
        assert f"{went_on}/{EPOCHS} " not in output.replace(f"of {EPOCHS}", ""), "that epoch is not trained again"
        assert f"{went_on + 1}/{EPOCHS} " in output


def test_finished_stages_are_not_done_again(story):
    _, outputs, _ = story
    assert [output.count("original: done before") for output in outputs] == [0, 1, 1, 1, 1]
    assert [output.count("sparse: done before") for output in outputs] == [0, 0, 0, 1, 1]
    assert [output.count("pruned: done before") for output in outputs] == [0, 0, 0, 0, 1]


def test_the_log_of_sparse_training_has_a_row_an_epoch(story):
    command, _, _ = story
    with (command.runs / "sparse" / "train" / "sparsity.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(e + 1) for e in range(EPOCHS)]
    assert float(rows[-1]["travel"]) == pytest.approx(SparseTrain().strength)


def test_the_results_are_whole(story):
    command, _, _ = story
    rows = json.loads((command.runs / "report" / "report.json").read_text())["rows"]
    assert [row["stage"] for row in rows] == ["original", "sparse", "pruned", "finetuned"]
    slim = checkpoint.load(command.runs / "finetuned" / "slim.pt")
    assert widths(slim) == widths(checkpoint.load(command.runs / "pruned" / "pruned.pt"))
    assert rows[-1]["params"] < rows[0]["params"]


def test_nothing_half_written_is_left_under_a_final_name(story):
    """Every checkpoint and every JSON file loads; temporary files may only bear a dot in front."""
    command, _, _ = story
    found = [path for path in command.runs.rglob("*") if path.is_file() and not path.name.startswith(".")]
    for path in found:
        if path.suffix == ".pt":
            checkpoint.load(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
    assert sum(path.suffix == ".pt" for path in found) >= 8
