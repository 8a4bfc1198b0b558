"""What a plan and its cut look at: the same images, read once for both."""

from __future__ import annotations

import pytest
from tiny import PX, run

from yolo_slim.data import batches

pytest_plugins = ["tiny"]


@pytest.mark.parametrize(("again", "times"), [((), 0), (("prune.recalibrate=2",), 1), (("prune.ratio=0.4",), 1)])
def test_images_are_read_once_and_only_where_a_stage_is_done(original, data, tmp_path, monkeypatch, again, times):
    made, loader = [], batches.DataLoader
    monkeypatch.setattr(batches, "DataLoader", lambda *args, **named: made.append(args) or loader(*args, **named))
    words = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path}", "sparse_train.epochs=0"]
    words += ["prune.ratio=0.3", "prune.min_channels=4", "prune.round_to=1", "prune.calib_images=4"]
    assert run("prune", *words).code == 0
    assert len(made) == 1
    assert run("prune", *words, *again).code == 0
    assert len(made) == 1 + times
