"""Two workers with half of a batch each take the step that one takes with all of it."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from distill_helpers import pair, scene, view
from torch import distributed, nn
from training_helpers import ARGUMENTS, PX, YAML, draw_shapes, saved, tiny

from yolo_slim.distill import LOSSES, Scene, View
from yolo_slim.distill.workers import average_gradients
from yolo_slim.pruning.recalibrate import recalibrate
from yolo_slim.training.distill import SETTINGS, DistillTrainer

APART = {"darkrank": "ranks the objects of a worker's images", "mgd": "its mask is drawn by each worker"}
"""Losses that are of a batch as a whole, each with what it does where there are several workers."""
EXACT = [name for name in LOSSES if name not in APART]

SCENE = scene((4, 4, 30, 40), (20, 10, 60, 60), (5, 30, 25, 60), images=(0, 0, 2))
STUDENT, TEACHER = view(1, SCENE, batch=4), view(2, SCENE, batch=4, widths=(4, 6))
"""Four images, of which the first two hold most of the objects, and the teacher is surer of the first."""
TEACHER.scores[0] += 3


TOGETHER = replace(SCENE, images=torch.zeros(3, dtype=torch.long))
"""All objects in one image: then one worker ranks them all."""


def part(images: slice, where: Scene = SCENE) -> tuple[View, View, Scene]:
    """Some of the images."""
    mine = torch.arange(4)[images].tolist()
    inside = torch.isin(where.images, torch.tensor(mine))
    there = replace(where, boxes=where.boxes[inside], classes=where.classes[inside],
                    images=where.images[inside] - mine[0])  # fmt: skip
    return *(View([m[images] for m in v.maps], v.boxes[images], v.scores[images]) for v in (STUDENT, TEACHER)), there


def gradients(images: slice) -> dict[str, list[torch.Tensor]]:
    """Loss -> gradients at two factors of the student's maps and predictions, and at what the loss trains."""
    found = {}
    for name in [*EXACT, "darkrank"]:
        torch.manual_seed(0)
        loss = LOSSES[name](pair(STUDENT, TEACHER)) if name != "channels" else None
        if loss is None:
            loss = LOSSES[name](pair(STUDENT, TEACHER, [torch.arange(m.shape[1]) for m in STUDENT.maps]))
        student, teacher, there = part(images, TOGETHER if name == "darkrank" else SCENE)
        factors = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))]
        # Not times a factor, which a correlation does not see.
        maps = [m + (f - 1) * m.square() for m, f in zip(student.maps, factors[0], strict=False)]
        value = loss(View(maps, student.boxes * factors[1], student.scores * factors[2]), teacher, there)
        (value * len(student.scores)).backward()
        found[name] = [p.grad for p in (*factors, *loss.parameters()) if p.grad is not None]
    return found


def step(files: dict[str, str], run: Path, images: slice, *, seed: int, workers: int) -> dict[str, dict]:
    """Student and adapters before and after one step of a trainer on some of four images."""
    run.mkdir()
    settings = {"teachers": [files["teacher"]], "kin": [False], "features": {"mimic": {}, "cwd": {}}, "outputs": {},
                "layers": None, "ramp_epochs": 0.0, "stop_before": 0, "teacher_images": None,
                "extra_images": None}  # fmt: skip
    (run / SETTINGS).write_text(yaml.safe_dump(settings))
    overrides = {"model": files["student"], "data": files["data"], "save_dir": str(run), "seed": seed, "epochs": 1}
    trainer = DistillTrainer(overrides={"task": "detect", "mode": "train", "warmup_epochs": 0} | ARGUMENTS | overrides)
    trainer._setup_train()
    trainer.epoch = 0
    student = trainer.model.eval()  # each worker's batch norms see its own images: they are not what is asked here
    found = {"before": state(trainer)}
    draw = torch.Generator().manual_seed(0)
    batch = {"img": torch.rand(4, 3, PX, PX, generator=draw)[images], "cls": torch.zeros(0, 1),
             "bboxes": torch.zeros(0, 4), "batch_idx": torch.zeros(0)}  # fmt: skip
    taught = trainer.taught(student(batch["img"]), batch)
    (sum(taught.values()) * len(batch["img"]) * workers).backward()  # as the trainer multiplies, and DDP divides
    average_gradients(student)
    trainer.optimizer.step()
    return found | {"after": state(trainer)}


def state(trainer: DistillTrainer) -> dict[str, torch.Tensor]:
    """Of all that is trained."""
    modules = {"student": trainer.model, "losses": trainer.losses}
    return {f"{at}.{k}": p.detach().clone() for at, m in modules.items() for k, p in m.named_parameters()}


def work(rank: int, folder: Path, files: dict[str, str]) -> None:
    """One of two workers: its gradients and its step go to files."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = slice(2 * rank, 2 * rank + 2)
    torch.save(gradients(mine), folder / f"{rank}.pt")
    torch.save(step(files, folder / f"run{rank}", mine, seed=rank, workers=2), folder / f"step{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A data set, a student and a wider teacher."""
    folder = tmp_path_factory.mktemp("files")
    wider = YAML.replace("Conv, [32, ", "Conv, [40, ").replace("C3, [32, False]", "C3, [48, False]")
    made = {"data": draw_shapes(folder)}
    for name, text in (("teacher", wider), ("student", YAML)):
        detector = recalibrate(tiny(folder, text), [torch.rand(8, 3, PX, PX)])  # else it says nearly nothing
        made[name] = str(saved(detector, folder / f"{name}.pt"))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, files: dict[str, str]) -> Path:
    """Where two workers have left what they found."""
    folder = tmp_path_factory.mktemp("workers")
    started = multiprocessing.get_context("forkserver")
    workers = [started.Process(target=work, args=(rank, folder, files)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[dict, list[dict]]:
    """Gradients of the whole, and of each worker's half."""
    return gradients(slice(0, 4)), [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def add_up(whole: list[torch.Tensor], *parts: list[torch.Tensor]) -> bool:
    """Whether the sum of the parts is the whole, as DDP sums them: each worker's loss times the images it has."""
    return all(
        torch.allclose(sum(each), alone, rtol=1e-3, atol=1e-5 * float(alone.abs().max()) + 1e-8)
        for alone, *each in zip(whole, *parts, strict=True)
    )


@pytest.mark.parametrize("name", [*EXACT, "darkrank"])
def test_the_sum_of_the_workers_gradients_is_that_of_the_whole(both: tuple, name: str) -> None:
    whole, halves = both
    assert any(g.abs().sum() > 0 for g in whole[name])
    assert add_up(whole[name], *(half[name] for half in halves))


@pytest.mark.parametrize("name", ["binary", "background", "bounded", "box", "ld", "pkd", "region", "fgfi", "scored"])
def test_halves_that_know_nothing_of_each_other_would_be_off(both: tuple, name: str) -> None:
    """The case is not one in which nothing needs to be shared."""
    whole, _ = both
    assert not add_up(whole[name], *(gradients(images)[name] for images in (slice(0, 2), slice(2, 4))))


def test_workers_take_the_step_that_one_takes_with_all_images(
    folder: Path, files: dict[str, str], tmp_path: Path
) -> None:
    """Their seeds differ, as in Ultralytics' distributed training: adapters must be alike all the same."""
    alone = step(files, tmp_path / "run", slice(0, 4), seed=0, workers=1)
    steps = [torch.load(folder / f"step{rank}.pt") for rank in range(2)]
    for when in ("before", "after"):
        one, two = (found[when] for found in steps)
        assert all(torch.equal(one[k], two[k]) for k in one), f"workers differ {when} the step"
        assert all(torch.allclose(one[k], v, rtol=1e-4, atol=1e-6) for k, v in alone[when].items())
    moved = [k for k, v in alone["after"].items() if not torch.equal(v, alone["before"][k])]
    assert any(k.startswith("student.") for k in moved)
    assert {k for k in moved if k.startswith("losses.")} == {k for k in alone["after"] if k.startswith("losses.")}
