"""Two workers with half of a batch each take the step that one takes with all of it."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distill_helpers import pair, scene, view
from torch import distributed, nn

from yolo_slim.distill import LOSSES, Scene, View

APART = {"darkrank": "ranks the objects of a worker's images", "pkd": "correlates over the images of a worker",
         "mgd": "its mask is drawn by each worker"}  # fmt: skip
"""Losses that are of a batch as a whole, each with what it does where there are several workers."""
EXACT = [name for name in LOSSES if name not in APART]

SCENE = scene((4, 4, 30, 40), (20, 10, 60, 60), (5, 30, 25, 60), images=(0, 0, 2))
STUDENT, TEACHER = view(1, SCENE, batch=4), view(2, SCENE, batch=4, widths=(4, 6))
"""Four images, of which the first two hold most of the objects, and the teacher is surer of the first."""
TEACHER.scores[0] += 3


def part(images: slice) -> tuple[View, View, Scene]:
    """Some of the images."""
    mine = torch.arange(4)[images].tolist()
    inside = torch.isin(SCENE.images, torch.tensor(mine))
    there = replace(SCENE, boxes=SCENE.boxes[inside], classes=SCENE.classes[inside],
                    images=SCENE.images[inside] - mine[0])  # fmt: skip
    return *(View([m[images] for m in v.maps], v.boxes[images], v.scores[images]) for v in (STUDENT, TEACHER)), there


def gradients(images: slice) -> dict[str, list[torch.Tensor]]:
    """Loss -> gradients at two factors of the student's maps and predictions, and at what the loss trains."""
    found = {}
    for name in EXACT:
        torch.manual_seed(0)
        loss = LOSSES[name](pair(STUDENT, TEACHER)) if name != "channels" else None
        if loss is None:
            loss = LOSSES[name](pair(STUDENT, TEACHER, [torch.arange(m.shape[1]) for m in STUDENT.maps]))
        student, teacher, there = part(images)
        factors = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))]
        maps = [m * f for m, f in zip(student.maps, factors[0], strict=False)]
        value = loss(View(maps, student.boxes * factors[1], student.scores * factors[2]), teacher, there)
        (value * len(student.scores)).backward()
        found[name] = [p.grad for p in (*factors, *loss.parameters()) if p.grad is not None]
    return found


def work(rank: int, folder: Path) -> None:
    """One of two workers: its gradients go to a file."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(gradients(slice(2 * rank, 2 * rank + 2)), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict]]:
    folder = tmp_path_factory.mktemp("workers")
    started = multiprocessing.get_context("forkserver")
    workers = [started.Process(target=work, args=(rank, folder)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    return gradients(slice(0, 4)), [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def add_up(whole: list[torch.Tensor], *parts: list[torch.Tensor]) -> bool:
    """Whether the sum of the parts is the whole, as DDP sums them: each worker's loss times the images it has."""
    return all(
        torch.allclose(sum(each), alone, rtol=1e-3, atol=1e-5 * float(alone.abs().max()) + 1e-8)
        for alone, *each in zip(whole, *parts, strict=True)
    )


@pytest.mark.parametrize("name", EXACT)
def test_the_sum_of_the_workers_gradients_is_that_of_the_whole(both: tuple, name: str) -> None:
    whole, halves = both
    assert any(g.abs().sum() > 0 for g in whole[name])
    assert add_up(whole[name], *(half[name] for half in halves))


@pytest.mark.parametrize("name", ["binary", "background", "bounded", "box", "ld", "region", "fgfi", "scored"])
def test_halves_that_know_nothing_of_each_other_would_be_off(both: tuple, name: str) -> None:
    """The case is not one in which nothing needs to be shared."""
    whole, _ = both
    assert not add_up(whole[name], *(gradients(images)[name] for images in (slice(0, 2), slice(2, 4))))
