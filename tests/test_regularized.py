"""What all modes share, beyond what their own tests show: one decision on all GPUs."""

from __future__ import annotations

import pytest
import torch

from yolo_slim.training.recovery import agreed


@pytest.mark.parametrize(("rank", "asked"), [(0, ["here"]), (1, [])])
def test_the_first_worker_decides_for_all(monkeypatch, rank, asked):
    calls = []

    def broadcast(answer, source):
        assert source == 0 and len(answer) == 1
        answer[0] = "what the first one said"

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)
    assert agreed(lambda: calls.append("here")) == "what the first one said"
    assert calls == asked


def test_alone_one_decides_for_oneself():
    assert agreed(lambda: "mine") == "mine"
