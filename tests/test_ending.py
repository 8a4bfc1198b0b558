"""Where a fine-tuning ends: never below its start, as val tells."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from tiny import PX, run

from yolo_slim import checkpoint
from yolo_slim.stages import labels
from yolo_slim.training.ending import ENDS, best_end, between

pytest_plugins = ["tiny"]


@pytest.fixture(scope="module")
def ends(loaded):
    """A detector, and another of the same widths."""
    trained = copy.deepcopy(loaded)
    with torch.no_grad():
        for tensor in trained.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(1.0)
    return loaded, trained


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_every_number_lies_that_share_of_the_way(ends, share):
    mixed = between(*ends, share).state_dict()
    for name, value in ends[0].state_dict().items():
        torch.testing.assert_close(mixed[name], value + share if value.is_floating_point() else value)


@pytest.mark.parametrize(
    ("worths", "taken"),
    [
        ({1.0: 0.4, 0.75: 0.3, 0.5: 0.2, 0.0: 0.1}, 1.0),
        ({1.0: 0.1, 0.75: 0.4, 0.5: 0.3, 0.0: 0.2}, 0.75),
        ({1.0: 0.1, 0.75: 0.2, 0.5: 0.3, 0.0: 0.2}, 0.5),
        ({1.0: 0.1, 0.75: 0.2, 0.5: 0.2, 0.0: 0.3}, 0.0),
        ({1.0: 0.2, 0.75: 0.2, 0.5: 0.2, 0.0: 0.2}, 1.0),
        ({1.0: 0.1, 0.75: 0.1, 0.5: 0.2, 0.0: 0.2}, 0.5),
    ],
)
def test_what_is_worth_most_is_taken(ends, worths, taken):
    bias = "model.0.bn.bias"
    first = ends[0].state_dict()[bias][0]

    def worth(detector):
        return worths[round(float(detector.state_dict()[bias][0] - first), 3)]

    found, share, told = best_end(*ends, worth, worths[0.0])
    assert (share, told) == (taken, worths)
    torch.testing.assert_close(found.state_dict()[bias], ends[0].state_dict()[bias] + taken)


@pytest.mark.parametrize(("best", "taken"), ENDS.items())
def test_the_stage_keeps_what_val_says_and_tells_it(original, data, tmp_path, monkeypatch, best, taken):
    words = (f"model={original}", f"data={data}", f"runs={tmp_path}", f"imgsz={PX}")
    cut = ("prune.ratio=0.3", "prune.min_channels=4", "prune.round_to=1", "prune.calib_images=4")
    assert run("prune", *words, *cut, "sparse_train.epochs=0").code == 0
    shares = iter((0.0, 0.0, 1.0, 0.75, 0.5))  # the start, the original, what was trained, and between
    monkeypatch.setattr(labels, "accuracy", lambda *args: {"map50_95": 1 - abs(next(shares) - best)})
    answer = run("finetune", *words, "finetune.epochs=1", "finetune.distill=null")
    assert answer.code == 0 and f"{taken} is taken" in answer.out, answer
    done = json.loads((tmp_path / "slim" / "finetuned" / "stage.json").read_text())
    assert done["details"]["end"]["taken"] == taken
    slim, pruned, trained = (
        checkpoint.load(tmp_path / "slim" / file).state_dict()
        for file in ("finetuned/slim.pt", "pruned/pruned.pt", "finetuned/train/weights/best.pt")
    )
    for name, value in slim.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, pruned[name].lerp(trained[name], best), rtol=2e-3, atol=2e-3)
