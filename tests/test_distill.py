"""Fine-tuning under a teacher: what mimicry costs, by hand; and that the student holds neither teacher nor adapters."""

from __future__ import annotations

import csv
import math

import pytest
import torch
from torch import Tensor
from training_helpers import (
    CLASSES,
    PX,
    YAML,
    Killed,
    draw_shapes,
    fit,
    killed_after,
    live,
    saved,
    tiny,
    watched,
    widths,
)
from ultralytics import YOLO

import yolo_slim
from yolo_slim import SlimError, checkpoint
from yolo_slim.distill import Mimic
from yolo_slim.training.distill import SETTINGS, DistillTrainer, detect_inputs

WEIGHT = 0.5


# ---------------------------------------------------------------------------------------------------------------------
# Mimicry by hand


def mimic(*widths: int) -> Mimic:
    """Adapters that pass their input on."""
    adapters = Mimic(widths, widths)
    with torch.no_grad():
        for adapter, width in zip(adapters.adapters, widths, strict=True):
            adapter.weight.copy_(torch.eye(width)[..., None, None])
    return adapters


def point(*values: float) -> Tensor:
    """One image, one position: (1, C, 1, 1)."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (
            [point(0, 2, 3)],
            [point(1, 2, 3)],
            1 / 3,
        ),  # FitNets' half squared norm would be 1/2; here the mean of squares
        ([point(1, 2, 3)], [point(1, 2, 3)], 0),
        ([point(0, 2, 3), point(5)], [point(1, 2, 3), point(5)], 1 / 6),  # the mean over levels, whatever their size
        ([point(0, 2, 3).expand(4, 3, 8, 8)], [point(1, 2, 3).expand(4, 3, 8, 8)], 1 / 3),  # and over images, positions
    ],
)
def test_mimicry_by_hand(student, teacher, expected):
    assert mimic(*(s.shape[1] for s in student))(student, teacher).item() == pytest.approx(expected)


def test_the_adapter_stands_between_the_widths():
    adapters = Mimic([2], [3])
    with torch.no_grad():
        adapters.adapters[0].weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1]])[..., None, None])
    assert adapters([point(1, 2)], [point(1, 2, 6)]).item() == pytest.approx(9 / 3)


def test_gradients_reach_student_and_adapters_alone():
    adapters = Mimic([2], [3])
    student, teacher = point(1, 2).requires_grad_(), point(3, 2, 1).requires_grad_()
    adapters([student], [teacher.detach()]).backward()
    assert student.grad.abs().sum() > 0 and adapters.adapters[0].weight.grad.abs().sum() > 0
    assert teacher.grad is None


def test_half_precision_maps_cost_in_full():
    """Under AMP maps are fp16 or bf16; squares of large features overflow there."""
    student, teacher = point(0.0).half(), point(300.0).half()
    adapters = mimic(1).half()
    cost = adapters([student], [teacher])
    assert cost.dtype == torch.float32 and cost.item() == 90_000  # beyond fp16's largest, 65,504


def test_levels_must_match():
    with pytest.raises(ValueError):
        Mimic([2, 3], [2])
    with pytest.raises(ValueError):
        mimic(1, 1)([point(1)], [point(1)])


# ---------------------------------------------------------------------------------------------------------------------
# Training under a teacher


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    return saved(tiny(folder), folder / "teacher.pt")


@pytest.fixture(scope="module")
def student(tmp_path_factory, teacher):
    pruned = yolo_slim.prune(checkpoint.load(teacher), imgsz=PX, ratio=0.4, round_to=1, min_channels=2)
    return saved(pruned.model, tmp_path_factory.mktemp("student") / "student.pt")


def under(teacher):
    """The settings file of a run."""
    return {SETTINGS: {"teacher": str(teacher), "weight": WEIGHT}}


@pytest.fixture(scope="module")
def taught(tmp_path_factory, data, student, teacher):
    """A finished training: (trainer, run folder, adapters before the first step)."""
    run, before = tmp_path_factory.mktemp("taught"), {}

    def note(trainer):
        before.update({k: v.clone() for k, v in trainer.mimic.state_dict().items()})

    trainer = fit(watched(DistillTrainer, note, "on_train_start"), student, run, data, files=under(teacher))
    return trainer, run, before


def test_the_teacher_stays_as_it_is(taught, teacher):
    """Weights, and the running statistics of its batch norms, which train mode would move."""
    trainer, _, _ = taught
    wanted = checkpoint.load(teacher).state_dict()
    found = trainer.teacher.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[k], v) for k, v in wanted.items())
    assert not any(m.training for m in trainer.teacher.modules())
    assert not any(p.requires_grad or p.grad is not None for p in trainer.teacher.parameters())


def test_the_adapters_learn(taught, student, teacher):
    trainer, _, before = taught
    shapes = [tuple(a.weight.shape[:2]) for a in trainer.mimic.adapters]
    inputs = [(s, t) for (s, _), (t, _) in zip(*(detect_widths(p) for p in (student, teacher)), strict=True)]
    assert shapes == [(t, s) for s, t in inputs] and shapes[0][0] != shapes[0][1]
    assert all(not torch.equal(v, before[k]) for k, v in trainer.mimic.state_dict().items())


def detect_widths(path) -> list[tuple[int, int]]:
    """(in, out) channels of Detect's first box convolution, per level."""
    detector = checkpoint.load(path)
    return [(branch[0].conv.in_channels, branch[0].conv.out_channels) for branch in detector.model[-1].cv2]


def test_no_trace_of_teacher_or_adapters_in_what_is_saved(taught, student):
    trainer, run, _ = taught
    wanted = checkpoint.load(student)
    for name, key in (("best.pt", "model"), ("last.pt", "ema")):
        ckpt = checkpoint.read(run / "weights" / name)
        found = ckpt[key]
        assert found.state_dict().keys() == wanted.state_dict().keys()
        assert [n for n, _ in found.named_modules()] == [n for n, _ in wanted.named_modules()]
        assert found.criterion is None and widths(found) == widths(wanted)
        assert YOLO(run / "weights" / name).model.state_dict().keys() == wanted.state_dict().keys()
    assert live(trainer).keys() == wanted.state_dict().keys()
    best, last = (checkpoint.read(run / "weights" / name) for name in ("best.pt", "last.pt"))
    assert "mimic" not in best
    assert last["mimic"].keys() == trainer.mimic.state_dict().keys()
    assert last["live"].keys() == wanted.state_dict().keys()


def test_mimicry_is_logged_for_training_alone(taught):
    _, run, _ = taught
    with (run / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(math.isfinite(float(row["train/mimic"])) and float(row["train/mimic"]) > 0 for row in rows)
    assert "val/mimic" not in rows[0] and "val/box_loss" in rows[0]
    assert None not in rows[0] and None not in rows[1].values(), "as many values as columns"


def batch_of(boxes: int) -> dict[str, Tensor]:
    """Two images, the first with this many objects."""
    torch.manual_seed(0)
    return {
        "img": torch.rand(2, 3, PX, PX),
        "cls": torch.zeros(boxes, 1),
        "bboxes": torch.full((boxes, 4), 0.5),
        "batch_idx": torch.zeros(boxes),
    }


@pytest.mark.parametrize("boxes", [0, 3])
def test_the_loss_is_ultralytics_plus_weighted_mimicry(taught, boxes):
    """Also on images without an object, where there is nothing but the teacher to learn from."""
    trainer, batch = taught[0], batch_of(boxes)
    detector = trainer.model.train()
    preds = detector(batch["img"])
    loss, items = detector.criterion(preds, batch)
    own, own_items = detector.criterion.base(preds, batch)
    with torch.no_grad():
        wanted = trainer.mimic(detect_inputs(preds), detect_inputs(trainer.teacher(batch["img"])))
    assert items["mimic"].item() == pytest.approx(WEIGHT * wanted.item(), rel=1e-5)
    assert loss.item() == pytest.approx(own.sum().item() + 2 * WEIGHT * wanted.item(), rel=1e-5)  # two images
    assert {k: v.item() for k, v in items.items() if k != "mimic"} == {k: v.item() for k, v in own_items.items()}
    loss.backward()
    grads = [p.grad for p in (*detector.parameters(), *trainer.mimic.parameters()) if p.grad is not None]
    assert len(grads) > 50 and all(g.isfinite().all() for g in grads)
    assert all(a.weight.grad.abs().sum() > 0 for a in trainer.mimic.adapters)
    detector.zero_grad(), trainer.mimic.zero_grad()


@pytest.mark.parametrize("training", [True, False])
def test_detect_inputs_are_the_same_in_either_mode(student, training):
    detector = checkpoint.load(student)
    seen = []
    detector.model[-1].register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    with torch.no_grad():
        output = detector.train(training)(torch.rand(2, 3, PX, PX))
    assert [m.shape for m in detect_inputs(output)] == [m.shape for m in seen] and len(seen) == 2
    assert [tuple(m.shape[2:]) for m in seen] == [(PX // 8, PX // 8), (PX // 16, PX // 16)]


def test_a_resumed_training_goes_on_with_its_adapters(tmp_path, data, student, teacher):
    found = {}

    def note(trainer):
        found.update({k: v.clone() for k, v in trainer.mimic.state_dict().items()})
        found["momenta"] = [trainer.optimizer.state[p]["momentum_buffer"].clone() for p in trainer.mimic.parameters()]

    with pytest.raises(Killed):
        fit(killed_after(DistillTrainer, 1), student, tmp_path, data, files=under(teacher), val=False)
    stored = checkpoint.read(tmp_path / "weights" / "last.pt")["mimic"]
    trainer = fit(watched(DistillTrainer, note, "on_train_start"), student, tmp_path, data, resume=True, val=False)
    assert trainer.start_epoch == 1
    assert all(torch.equal(found[k], v) for k, v in stored.items())
    assert all(m.abs().sum() > 0 for m in found["momenta"])
    assert any(not torch.equal(v, stored[k]) for k, v in trainer.mimic.state_dict().items()), "and trains them on"


def test_recovery_from_nan_works_under_a_teacher_too(tmp_path, data, student, teacher):
    """Ultralytics copies the whole detector then; neither trainer nor teacher must hang on it. Adapters go back too."""
    at_end, again = {}, []

    def spoil(trainer):
        if trainer.epoch == 0:
            at_end.update({k: v.clone() for k, v in trainer.mimic.state_dict().items()})
        elif not again:
            again.append(None)
            trainer.loss = torch.tensor(math.nan)

    class Recovering(DistillTrainer):
        def _handle_nan_recovery(self, epoch):
            recovered = super()._handle_nan_recovery(epoch)
            if recovered:
                again[0] = {k: v.clone() for k, v in self.mimic.state_dict().items()}
            return recovered

    run = watched(Recovering, spoil, "on_train_epoch_end")
    trainer = fit(run, student, tmp_path, data, files=under(teacher), val=False)
    assert trainer.epoch == 1 and checkpoint.read(tmp_path / "weights" / "last.pt")["epoch"] == 1
    assert all(torch.equal(v, at_end[k]) for k, v in again[0].items())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("- [[9, 12], 1, Detect, [nc]]", "- [[9], 1, Detect, [nc]]"),  # one level
        ("- [[9, 12], 1, Detect, [nc]]", "- [[1, 9], 1, Detect, [nc]]"),  # finer ones
    ],
)
def test_a_teacher_with_other_strides_is_refused(tmp_path, data, student, old, new):
    assert old in YAML
    other = saved(tiny(tmp_path, YAML.replace(old, new)), tmp_path / "other.pt")
    with pytest.raises(SlimError, match=r"teacher .*other\.pt has other strides than the student"):
        fit(DistillTrainer, student, tmp_path / "run", data, files=under(other))
    assert not list((tmp_path / "run").rglob("*.pt"))


def test_a_teacher_may_know_other_classes(tmp_path, data, student):
    """Only maps are compared, so a detector trained on anything may teach."""
    other = saved(tiny(tmp_path, YAML.replace(f"nc: {CLASSES}", "nc: 9")), tmp_path / "other.pt")
    trainer = fit(DistillTrainer, student, tmp_path / "run", data, epochs=1, files=under(other), val=False)
    assert trainer.teacher.model[-1].nc == 9 and trainer.model.model[-1].nc == CLASSES
    assert 0 < trainer.tloss["mimic"] < math.inf
