"""Fine-tuning under a teacher: the losses are paid as asked, and the student holds neither teacher nor adapters."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from training_helpers import (
    BATCH,
    BATCHES,
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
from yolo_slim import SlimError, SlimTrainer, checkpoint
from yolo_slim.data import unlabelled
from yolo_slim.distill import FEATURES, OUTPUTS
from yolo_slim.distill.together import joined
from yolo_slim.pruning.recalibrate import recalibrate
from yolo_slim.training.distill import SETTINGS, DistillTrainer, enrol
from yolo_slim.training.pairs import blocks_of, same_channels
from yolo_slim.training.teacher import Silent, Taps, Teacher, entering, names_of, raw, scene_of, view_of

WEIGHT = 0.5


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


def under(*teachers, **changed):
    """The settings file of a run."""
    settings = {
        "teachers": [str(t) for t in teachers],
        "kin": [False] * len(teachers),
        "features": {"mimic": {"weight": WEIGHT}},
        "outputs": {},
        "layers": None,
        "ramp_epochs": 0.0,
        "stop_before": 0,
        "teacher_images": None,
        "extra_images": None,
    }
    return {SETTINGS: settings | changed}


@pytest.fixture(scope="module")
def taught(tmp_path_factory, data, student, teacher):
    """A finished training: (trainer, run folder, adapters before the first step)."""
    run, before = tmp_path_factory.mktemp("taught"), {}

    def note(trainer):
        before.update({k: v.clone() for k, v in trainer.losses.state_dict().items()})

    trainer = fit(watched(DistillTrainer, note, "on_train_start"), student, run, data, files=under(teacher))
    return trainer, run, before


def test_the_teacher_stays_as_it_is(taught, teacher):
    """It says what its checkpoint says: no weight and no running statistic has moved."""
    (there,) = taught[0].teachers
    image = torch.rand(2, 3, PX, PX)
    with torch.no_grad():
        wanted = raw(checkpoint.load(teacher)(image))
    alike(there(image).maps, wanted["feats"])
    *layers, head = there.detector.model
    assert isinstance(head, Silent), "nobody listens: mimicry compares maps"
    assert not any(m.training for layer in layers for m in layer.modules())
    assert not any(p.requires_grad or p.grad is not None for p in there.detector.parameters())


@pytest.mark.parametrize("layers", [None, ["model.3", "model.9"], ["model.3.cv3", "model.9"], ["model.3.cv1.bn"]])
def test_a_teacher_says_what_its_checkpoint_says(teacher, layers):
    """Merged or not, decoded or not; and its maps are the same where its head is not run."""
    image, whole = torch.rand(2, 3, PX, PX), checkpoint.load(teacher)
    taps = Taps(whole, layers or entering(whole), "the teacher")
    taps.open()
    with torch.no_grad():
        wanted = raw(whole(image))
    for predicts in (True, False):
        there = Teacher(checkpoint.load(teacher), "teacher.pt", whole.stride.tolist(), layers, predicts=predicts)
        found = there(image)
        alike(found.maps, taps.caught())
        if predicts:
            alike([found.boxes, found.scores], [wanted["boxes"], wanted["scores"]])
        else:
            assert found.boxes.numel() == found.scores.numel() == 0


def test_a_teacher_whose_head_is_named_runs_it(teacher):
    whole = checkpoint.load(teacher)
    head = f"model.{whole.model[-1].i}.cv3.0.0"
    there = Teacher(checkpoint.load(teacher), "teacher.pt", whole.stride.tolist(), [head], predicts=False)
    assert there(torch.rand(1, 3, PX, PX)).maps[0].shape[1] == whole.get_submodule(head).conv.out_channels


def alike(found: list[Tensor], wanted: list[Tensor]) -> None:
    """Up to half precision, where a teacher looks with it."""
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one.float(), other, atol=0.02 * float(other.abs().max()))


def relabelled(data: str, folder: Path, classes: int = CLASSES, keep: bool = True) -> str:
    """The same pictures under other labels: with more classes to tell apart, or without any object."""
    shutil.copytree(Path(data).parent, folder / "data")
    path = folder / "data" / Path(data).name
    described = yaml.safe_load(path.read_text()) | {"path": str(path.parent), "names": [str(i) for i in range(classes)]}
    path.write_text(yaml.safe_dump(described))
    for label in () if keep else (folder / "data").rglob("*.txt"):
        label.write_text("")
    for cache in (folder / "data").rglob("*.cache"):
        cache.unlink()
    return str(path)


@pytest.mark.parametrize(
    ("classes", "keep", "arguments"),
    [
        pytest.param(CLASSES, True, {}, id="as it is"),
        pytest.param(CLASSES, True, {"amp": "bf16"}, id="in mixed precision"),
        pytest.param(CLASSES, False, {}, id="images without objects"),
        pytest.param(1, True, {"single_cls": True}, id="one class"),
        pytest.param(80, True, {}, id="80 classes"),
        pytest.param(CLASSES, True, {"imgsz": 640, "batch": 2, "fraction": 0.34}, id="640 px"),
    ],
)
def test_every_loss_is_finite_in_training(tmp_path, data, classes, keep, arguments):
    original = tiny(tmp_path, YAML.replace(f"nc: {CLASSES}", f"nc: {classes}"))
    recalibrate(original, [torch.rand(8, 3, PX, PX)])  # else it says nearly the same everywhere
    model = yolo_slim.prune(original, imgsz=PX, ratio=0.4, round_to=1, min_channels=2).model
    paths = [saved(m, tmp_path / f"{name}.pt") for name, m in (("slim", model), ("whole", original))]
    every = {"features": {name: {} for name in FEATURES}, "outputs": {name: {} for name in OUTPUTS}}
    files = under(paths[1], kin=[True], **every)
    labels = relabelled(data, tmp_path, max(classes, CLASSES), keep)
    trainer = fit(DistillTrainer, paths[0], tmp_path / "run", labels, epochs=1, files=files, **arguments)
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    losses = {name: float(row[f"train/{name}"]) for name in trainer.losses.names}
    assert losses.keys() == {*FEATURES, *OUTPUTS}
    assert all(math.isfinite(v) and v >= 0 for v in losses.values()), losses
    assert all(
        v.isfinite().all() for v in checkpoint.load(tmp_path / "run" / "weights" / "last.pt").state_dict().values()
    )


def test_the_adapters_learn(taught, student, teacher):
    trainer, _, before = taught
    shapes = [tuple(p.shape[:2]) for p in trainer.losses.parameters()]
    inputs = [(s, t) for (s, _), (t, _) in zip(*(detect_widths(p) for p in (student, teacher)), strict=True)]
    assert shapes == [(t, s) for s, t in inputs] and shapes[0][0] != shapes[0][1]
    assert all(not torch.equal(v, before[k]) for k, v in trainer.losses.state_dict().items())


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
    assert "distill" not in best
    assert last["distill"].keys() == trainer.losses.state_dict().keys()
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


def pay(trainer, batch):
    """(loss, items) of a batch as training computes it, and of Ultralytics' criterion alone."""
    detector = trainer.model.train()
    preds = detector(batch["img"])
    return detector.criterion(preds, batch), detector.criterion.base(preds, batch), preds


@pytest.mark.parametrize("boxes", [0, 3])
def test_the_loss_is_ultralytics_plus_what_is_weighted(taught, boxes):
    """Also on images without an object, where there is nothing but the teacher to learn from."""
    trainer, batch = taught[0], batch_of(boxes)
    (loss, items), (own, own_items), preds = pay(trainer, batch)
    with torch.no_grad():
        view, scene = view_of(preds, None), scene_of(preds, batch, trainer.model.stride)
        (hint,) = trainer.losses.features["mimic"]
        wanted = hint(view, trainer.teachers[0](batch["img"]), scene)
    assert items["mimic"].item() == pytest.approx(WEIGHT * wanted.item(), rel=1e-5)
    assert loss.item() == pytest.approx(own.sum().item() + 2 * WEIGHT * wanted.item(), rel=1e-5)  # two images
    assert {k: v.item() for k, v in items.items() if k != "mimic"} == {k: v.item() for k, v in own_items.items()}
    loss.backward()
    grads = [p.grad for p in (*trainer.model.parameters(), *trainer.losses.parameters()) if p.grad is not None]
    assert len(grads) > 50 and all(g.isfinite().all() for g in grads)
    assert all(p.grad.abs().sum() > 0 for p in trainer.losses.parameters())
    trainer.model.zero_grad(), trainer.losses.zero_grad()


def test_the_scene_is_what_the_batch_says(student):
    detector = checkpoint.load(student)
    batch = batch_of(2) | {"bboxes": torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.25, 0.75, 0.5, 0.5]])}
    scene = scene_of(detector.train()(batch["img"]), batch, detector.stride)
    assert scene.boxes.tolist() == [[16, 24, 48, 40], [0, 32, 32, 64]] and scene.size == (PX, PX)
    assert scene.images.tolist() == [0, 0] and scene.classes.tolist() == [0, 0]
    assert scene.points[:2].tolist() == [[4, 4], [12, 4]] and scene.points[-1].tolist() == [56, 56]
    assert scene.strides.tolist() == [8] * 64 + [16] * 16


@pytest.mark.parametrize("training", [True, False])
def test_what_enters_detect_is_what_is_caught(student, training):
    detector = checkpoint.load(student).train(training)
    taps = Taps(detector, entering(detector), "it")
    taps.open()
    with torch.no_grad():
        output = detector(torch.rand(2, 3, PX, PX))
    assert all(a is b for a, b in zip(taps.caught(), raw(output)["feats"], strict=True))
    taps.close()
    assert not any(m._forward_hooks for m in detector.modules())


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        (["model.99"], "names model.99, which the student does not have"),
        (["model.13"], "expected a map .* from model.13 of the student, got (tuple|dict)"),
    ],
)
def test_layers_that_are_not_there_or_give_no_map(tmp_path, data, student, teacher, layers, complaint):
    files = under(teacher, layers={name: name for name in layers})
    with pytest.raises(SlimError, match=complaint):
        fit(DistillTrainer, student, tmp_path / "run", data, files=files)


def test_layers_that_the_teacher_alone_lacks(tmp_path, data, student, teacher):
    files = under(teacher, layers={"model.3": "model.3.cv9"})
    with pytest.raises(SlimError, match=r"names model.3.cv9, which the teacher .*teacher\.pt does not have"):
        fit(DistillTrainer, student, tmp_path / "run", data, files=files)


# ---------------------------------------------------------------------------------------------------------------------
# Channels that are known by name


def test_each_channel_of_the_student_is_a_known_one_of_the_teacher(student, teacher):
    """By weights: what makes the channels that enter Detect was copied from the teacher's rows."""
    small, large = checkpoint.load(student), checkpoint.load(teacher)
    there = same_channels(small, large, PX)
    for block, name in (("model.3", "model.3.cv3.bn"), ("model.9", "model.9.bn")):
        rows = there[block]
        assert torch.equal(small.get_submodule(name).weight, large.get_submodule(name).weight[rows])
        assert len(rows) < len(large.get_submodule(name).weight)
    assert len(there["model.8"]) == small.model[9].conv.in_channels, "a concatenation"
    assert [len(there[name]) for name in entering(large)] == [s for s, _ in detect_widths(student)]


def test_a_student_of_a_student(student, teacher):
    """Under the original, cuts add up; under the first student, the second cut counts alone."""
    first = checkpoint.load(student)
    second = yolo_slim.prune(first, imgsz=PX, ratio=0.2, round_to=1, min_channels=2).model
    far, near = (same_channels(second, d, PX) for d in (checkpoint.load(teacher), first))
    back = same_channels(first, checkpoint.load(teacher), PX)
    assert all((back[name][near[name]] == far[name]).all() for name in far)
    with pytest.raises(SlimError, match="was not cut from this teacher"):
        same_channels(first, second, PX)


def test_channels_are_compared_in_every_block(tmp_path, data, student, teacher):
    """And alone there: adapters would have to be learned at each, so other losses look at what enters Detect."""
    files = under(teacher, kin=[True], features={"channels": {}}, outputs={"binary": {}})
    trainer = fit(DistillTrainer, student, tmp_path / "blocks", data, epochs=1, files=files, val=False)
    assert trainer.taps.names == trainer.teachers[0].names == ["model.3", "model.5", "model.9", "model.12"]
    first = checkpoint.load(student).model[3].cv3.conv.out_channels
    assert trainer.losses.features["channels"][0].match.widths[0] == first
    files = under(teacher, kin=[True], features={"channels": {}, "pkd": {}})
    detectors = [checkpoint.load(teacher)]
    small = checkpoint.load(student)
    _, pairs, taps = enrol(small, detectors, files[SETTINGS], PX, square=True)
    assert taps is None and len(pairs[0].student) == 2
    files = under(teacher, kin=[True], features={"channels": {}}, outputs={"darkrank": {}})
    *_, taps = enrol(small, [checkpoint.load(teacher)], files[SETTINGS], PX, square=True)
    assert taps is None, "darkrank looks at maps as well"


@pytest.mark.parametrize(("name", "inside"), [("yolov3-tiny", 0), ("yolov5n", 6), ("yolov8n", 6), ("yolo11n", 7)])
def test_in_every_family_blocks_before_those_in_front_of_detect_are_known(name, inside):
    whole = checkpoint.build(f"{name}.yaml", CLASSES)
    small = yolo_slim.prune(whole, imgsz=PX, ratio=0.3, round_to=1, min_channels=2).model
    settings = under("whole.pt", kin=[True], features={"channels": {}})[SETTINGS]
    _, (found,), taps = enrol(small, [whole], settings, PX, square=True)
    assert set(entering(small)) <= set(taps.names) and len(taps.names) - len(entering(small)) == inside
    assert found.student == [len(rows) for rows in found.same]


def test_a_block_that_is_not_known_is_left_out(student):
    """Of a map that the trace does not understand nobody knows who is who, and an empty one has nothing to say."""
    small = checkpoint.load(student)
    known = {f"model.{i}": np.arange(m) for i, m in ((3, 5), (5, 0), (9, 7), (12, 4))}
    assert list(blocks_of(small, [known])) == ["model.3", "model.9", "model.12"]
    assert list(blocks_of(small, [known, {**known, "model.3": np.arange(0)}])) == ["model.9", "model.12"]
    assert list(blocks_of(small, [{}])) == entering(small), "which is refused by name if it is not known"


def test_under_its_original_a_student_needs_no_adapters(tmp_path, data, student, teacher):
    files = under(teacher, kin=[True], features={"channels": {}, "pkd": {"weight": 0.1}}, outputs={"binary": {}})
    trainer = fit(DistillTrainer, student, tmp_path, data, epochs=1, files=files, val=False)
    assert not list(trainer.losses.parameters())
    assert all(0 < trainer.tloss[name] < math.inf for name in ("channels", "pkd", "binary"))


def test_channels_without_a_cut_are_refused(tmp_path, data, student, teacher):
    with pytest.raises(SlimError, match="needs a student that was cut from this teacher"):
        fit(DistillTrainer, student, tmp_path, data, files=under(teacher, features={"channels": {}}))


# ---------------------------------------------------------------------------------------------------------------------
# Several losses, teachers, layers; when they count


def test_maps_of_named_layers(tmp_path, data, student, teacher):
    layers = {"model.3": "model.3", "model.5": "model.5"}
    run = fit(DistillTrainer, student, tmp_path, data, files=under(teacher, layers=layers))
    assert [tuple(p.shape[:2]) for p in run.losses.parameters()] == [
        (large.model[i].cv3.conv.out_channels if i == 3 else large.model[i].cv2.conv.out_channels,
         small.model[i].cv3.conv.out_channels if i == 3 else small.model[i].cv2.conv.out_channels)
        for small, large in [(checkpoint.load(student), checkpoint.load(teacher))] for i in (3, 5)
    ]  # fmt: skip
    assert not any(m._forward_hooks for m in run.model.modules()), "nothing listens after training"
    YOLO(tmp_path / "weights" / "best.pt")


def test_two_teachers(tmp_path, data, student, teacher):
    other = saved(tiny(tmp_path, seed=3), tmp_path / "other.pt")
    files = under(teacher, other, outputs={"binary": {}, "box": {"weight": 0.5}})
    trainer = fit(DistillTrainer, student, tmp_path / "run", data, epochs=1, files=files, val=False)
    batch = batch_of(3)
    (_, items), _, preds = pay(trainer, batch)
    view, scene = view_of(preds, None), scene_of(preds, batch, trainer.model.stride)
    views = [t(batch["img"]) for t in trainer.teachers]
    each = [hint(view, v, scene).item() for hint, v in zip(trainer.losses.features["mimic"], views, strict=True)]
    assert items["mimic"].item() == pytest.approx(WEIGHT * sum(each) / 2, rel=1e-5) and each[0] != each[1]
    together = trainer.losses.outputs["box"](view, joined(views), scene)
    assert items["box"].item() == pytest.approx(0.5 * together.item(), rel=1e-5)


def test_a_teacher_looks_once_however_many_losses_there_are(tmp_path, data, student, teacher):
    seen = []

    def count(trainer):
        trainer.teachers[0].detector.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))

    files = under(teacher, features={"mimic": {}, "cwd": {}}, outputs={"binary": {}})
    run = watched(DistillTrainer, count, "on_train_start")
    fit(run, student, tmp_path / "run", data, epochs=1, files=files, val=False)
    assert seen == [BATCH] * BATCHES


OTHERS = {
    "larger": YAML.replace("Conv, [48, ", "Conv, [80, ").replace("C3, [32", "C3, [64"),
    "of another family": YAML.replace("C3, [32", "C2f, [40"),
    "with more strides": YAML.replace("[[9, 12], 1, Detect", "[[1, 9, 12], 1, Detect"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_detector_may_teach(tmp_path, data, student, kind):
    other = saved(tiny(tmp_path, OTHERS[kind], seed=3), tmp_path / "other.pt")
    files = under(other, features={"mimic": {}, "attention": {}}, outputs={"binary": {}, "ld": {}})
    trainer = fit(DistillTrainer, student, tmp_path / "run", data, epochs=1, files=files, val=False)
    assert all(0 < trainer.tloss[name] < math.inf for name in ("mimic", "attention", "binary", "ld"))
    (there,) = trainer.teachers
    image = torch.rand(1, 3, PX, PX)
    sides = [m.shape[2] for m in there(image).maps]
    assert sides == [8, 4] and there(image).scores.shape[2] == 8**2 + 4**2


def test_of_several_teachers_the_one_it_was_cut_from_needs_no_adapters(tmp_path, data, student, teacher):
    other = saved(tiny(tmp_path, OTHERS["larger"], seed=3), tmp_path / "other.pt")
    files = under(teacher, other, kin=[True, False])
    trainer = fit(DistillTrainer, student, tmp_path / "run", data, epochs=1, files=files, val=False)
    first, second = trainer.losses.features["mimic"]
    assert not list(first.parameters()) and len(list(second.parameters())) == 2


def test_several_teachers_may_teach_what_looks_at_maps_alone(tmp_path, data, student, teacher):
    """What they predict is joined for the losses of outputs, so then it is there."""
    files = under(teacher, teacher, kin=[True, True], outputs={"darkrank": {}})
    trainer = fit(DistillTrainer, student, tmp_path / "run", data, epochs=1, files=files, val=False)
    assert 0 < trainer.tloss["mimic"] < math.inf and math.isfinite(trainer.tloss["darkrank"])
    assert all(each.predicts for each in trainer.teachers)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "AdamW", "MuSGD"])
def test_adapters_are_trained_as_batch_norms_are(taught, name):
    trainer = taught[0]
    optimizer = trainer.build_optimizer(trainer.model, name, 0.01, 0.8, 0.0005)
    *groups, own = optimizer.param_groups
    assert own["params"] == list(trainer.losses.parameters()) and own["lr"] == 0.01
    norms = [g for g in groups if g["param_group"] == "bn" and g["params"]][-1]  # MuSGD's first is three times as fast
    assert {k: v for k, v in own.items() if k != "params"} == {k: v for k, v in norms.items() if k != "params"}
    assert own["weight_decay"] == 0
    assert own["betas"][0] == 0.8 if name == "AdamW" else own["momentum"] == 0.8
    assert own.get("nesterov", False) is (name in ("SGD", "MuSGD"))


def test_a_step_of_two_batches_is_that_of_their_sum(tmp_path, data, student, teacher):
    """Gradients are accumulated until nbs images have been seen, the adapters' as the student's."""
    batches, starts, found = [], [], []

    class Noted(DistillTrainer):
        def taught(self, preds, batch):
            batches.append({k: v.clone() if isinstance(v, Tensor) else v for k, v in batch.items()})
            if not starts:  # before the first forward's running statistics matter: they do not in train mode
                starts.append((live(self), {k: v.clone() for k, v in self.losses.state_dict().items()}))
            return super().taught(preds, batch)

        def optimizer_step(self):
            trained = [*self.model.parameters(), *self.losses.parameters()]
            found.append([None if p.grad is None else p.grad.clone() for p in trained])
            super().optimizer_step()
            found[-1].append([p.detach().clone() for p in self.losses.parameters()])

    more = {"nbs": 2 * BATCH, "batch": BATCH, "warmup_epochs": 0, "amp": False, "val": False}
    trainer = fit(Noted, student, tmp_path, data, epochs=1, files=under(teacher), **more)
    assert len(batches) == BATCHES == 3 and len(found) == 1, "the third batch waits for a fourth"
    (*grads, after), (state, adapters) = found[0], starts[0]
    trainer.model.load_state_dict(state), trainer.losses.load_state_dict(adapters)
    model = trainer.model.train()
    model.criterion.base = model.init_criterion()
    total = 0
    for batch in batches[:2]:
        loss, _ = model.criterion(model(batch["img"]), batch)
        total = total + loss
    trained = [p for p in (*model.parameters(), *trainer.losses.parameters())]
    wanted = torch.autograd.grad(total, [p for p in trained if p.requires_grad], allow_unused=True)
    got = [g for g, p in zip(grads, trained, strict=True) if p.requires_grad]
    for one, two in zip(got, wanted, strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-5 * float(two.abs().max()) + 1e-8)
    rate, nesterov = trainer.optimizer.param_groups[-1]["initial_lr"], 1 + trainer.args.momentum
    for new, old, grad in zip(after, adapters.values(), wanted[-len(after) :], strict=True):
        assert torch.allclose(new, old - rate * nesterov * grad, atol=1e-6), "the first step of SGD with momentum"


@pytest.mark.parametrize(
    ("ramp", "stop", "expected"),
    [
        pytest.param(0.0, 0, [1] * 9, id="always"),
        pytest.param(2.0, 0, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1, 1], id="rising over two epochs of three"),
        pytest.param(0.0, 1, [1] * 6 + [0] * 3, id="not in the last epoch"),
        pytest.param(0.5, 2, [2 / 3, 1, 1] + [0] * 6, id="both"),
    ],
)
def test_when_the_teacher_counts(tmp_path, data, student, teacher, ramp, stop, expected):
    """Batch by batch; and with a kill in between the same."""
    seen, looked = [], []

    class Noted(DistillTrainer):
        def taught(self, preds, batch):
            found = super().taught(preds, batch)
            seen.append(self.strength())
            looked.append(found["mimic"].item() > 0)
            return found

    files = under(teacher, ramp_epochs=ramp, stop_before=stop)
    with pytest.raises(Killed):
        fit(killed_after(Noted, 1), student, tmp_path, data, epochs=3, files=files, val=False)
    fit(Noted, student, tmp_path, data, epochs=3, resume=True, val=False)
    assert seen == pytest.approx(expected)
    assert looked == [s > 0 for s in expected], "nothing is paid for where it counts nothing"


# ---------------------------------------------------------------------------------------------------------------------
# Other pictures for the teacher, and pictures without labels


@pytest.mark.parametrize("cache", [False, "ram"])
def test_the_teacher_sees_other_pictures_augmented_alike(tmp_path, data, student, teacher, cache):
    """Negatives of the training images: mosaic, scale, flip and all are the same, pixel by pixel."""
    images, seen = Path(data).parent / "images" / "train", []
    (tmp_path / "negatives").mkdir()
    for file in images.iterdir():
        cv2.imwrite(str(tmp_path / "negatives" / file.name), 255 - cv2.imread(str(file)))

    class Noted(DistillTrainer):
        def taught(self, preds, batch):
            seen.append((batch["img"], batch["teacher_img"]))
            return super().taught(preds, batch)

    files = under(teacher, teacher_images=str(tmp_path / "negatives"))
    still = {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "close_mosaic": 1}
    fit(Noted, student, tmp_path / "run", data, files=files, val=False, cache=cache, **still)
    assert len(seen) == 6
    for image, other in seen:
        inside = (image - 114 / 255).abs().amax(1) > 0.02  # the border is grey in both
        apart = (image + other - 1).abs().mean(1)  # JPEG blurs colours by a few hundredths
        assert apart[inside].mean() < 0.04
        assert (image + other.flip(0) - 1).abs().mean(1)[inside].mean() > 0.08, "other pictures would show"


def test_a_picture_that_is_missing_for_the_teacher(tmp_path, data, student, teacher):
    (tmp_path / "none").mkdir()
    files = under(teacher, teacher_images=str(tmp_path / "none"))
    with pytest.raises(SlimError, match="12 of 12 are missing"):
        fit(DistillTrainer, student, tmp_path / "run", data, files=files)


@pytest.mark.parametrize("with_labels", [False, True])
def test_images_without_labels_are_supervised_by_the_teacher_alone(tmp_path, data, student, teacher, with_labels):
    extra = Path(draw_shapes(tmp_path, train=6, seed=5)).parent / "images" / "train"
    if with_labels:  # ids that the data set does not know: Ultralytics would leave these images out
        for file in (extra.parents[1] / "labels").rglob("*.txt"):
            file.write_text(f"{CLASSES + 3} 0.5 0.5 0.2 0.2\n")
    else:
        shutil.rmtree(extra.parents[1] / "labels")
    before, seen = sorted(extra.parents[1].rglob("*")), []

    class Noted(DistillTrainer):
        def taught(self, preds, batch):
            seen.append(batch)
            return super().taught(preds, batch)

    files = under(teacher, extra_images=str(extra), outputs={"binary": {}})
    trainer = fit(Noted, student, tmp_path / "run", data, epochs=1, files=files, val=False)
    flags = [flag for batch in seen for flag in batch["labelled"]]
    assert flags.count(True) == 12 and flags.count(False) == 6
    for batch in seen:
        owners = {int(i) for i in batch["batch_idx"]}
        assert all(batch["labelled"][i] for i in owners), "labels beside those images are not read"
    assert all(0 < trainer.tloss[name] < math.inf for name in ("mimic", "binary", "box_loss"))
    assert sorted(extra.parents[1].rglob("*")) == before, "nothing is written beside a user's images"


def test_an_image_that_cannot_be_read_is_left_out_and_said(tmp_path, data, student, teacher, monkeypatch):
    extra, said = Path(draw_shapes(tmp_path, train=3, seed=5)).parent / "images" / "train", []
    first = min(extra.iterdir())
    first.write_bytes(first.read_bytes()[:100])
    monkeypatch.setattr(unlabelled.LOGGER, "warning", said.append)
    files = under(teacher, extra_images=str(extra))
    trainer = fit(DistillTrainer, student, tmp_path / "run", data, epochs=1, files=files, val=False)
    assert len(trainer.train_loader.dataset) == 12 + 2
    assert any("1 images that cannot be read are left out" in line and first.name in line for line in said)


@pytest.mark.parametrize(
    ("side", "said"),
    [
        pytest.param(None, "training stopped at .*Error loading data from", id="none at all"),
        pytest.param(
            8, "extra_images: none of the 1 images in .* can be read: .* <10 pixels", id="too small to be read"
        ),
    ],
)
def test_a_folder_without_images_to_add_is_refused(tmp_path, data, student, teacher, side, said):
    (tmp_path / "more").mkdir()
    if side:
        cv2.imwrite(str(tmp_path / "more" / "a.png"), np.zeros((side, side, 3), np.uint8))
    with pytest.raises(SlimError, match=said) as caught:
        fit(DistillTrainer, student, tmp_path / "run", data, files=under(teacher, extra_images=str(tmp_path / "more")))
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("flags", [(True, False), (False, True), (False, False), (True, True)])
def test_unlabelled_images_add_nothing_to_ultralytics_loss(taught, flags):
    trainer, batch = taught[0], batch_of(3)
    batch["batch_idx"] = torch.full((3,), float(flags.index(True))) if any(flags) else torch.zeros(0)
    if not any(flags):
        batch |= {"cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4)}
    detector = trainer.model.eval()  # batch norms must not see the other image
    preds = raw(detector(batch["img"]))
    _, items = detector.criterion(preds, batch | {"labelled": flags})
    stay = [i for i, flag in enumerate(flags) if flag]
    if stay:
        alone = {**batch, "img": batch["img"][stay], "batch_idx": batch["batch_idx"] - stay[0]}
        if len(stay) == 2:
            alone = batch
        _, wanted = detector.criterion.base(raw(detector(alone["img"])), alone)
        assert {k: v.item() for k, v in items.items() if k != "mimic"} == pytest.approx(
            {k: v.item() for k, v in wanted.items()}, rel=1e-4
        )
    else:
        assert {v.item() for k, v in items.items() if k != "mimic"} == {0}
    assert items["mimic"] > 0


# ---------------------------------------------------------------------------------------------------------------------
# Kills, NaN, teachers that do not fit


def test_a_resumed_training_goes_on_with_its_adapters(tmp_path, data, student, teacher):
    found = {}

    def note(trainer):
        found.update({k: v.clone() for k, v in trainer.losses.state_dict().items()})
        found["momenta"] = [trainer.optimizer.state[p]["momentum_buffer"].clone() for p in trainer.losses.parameters()]

    with pytest.raises(Killed):
        fit(killed_after(DistillTrainer, 1), student, tmp_path, data, files=under(teacher), val=False)
    stored = checkpoint.read(tmp_path / "weights" / "last.pt")["distill"]
    trainer = fit(watched(DistillTrainer, note, "on_train_start"), student, tmp_path, data, resume=True, val=False)
    assert trainer.start_epoch == 1
    assert all(torch.equal(found[k], v) for k, v in stored.items())
    assert all(m.abs().sum() > 0 for m in found["momenta"])
    assert any(not torch.equal(v, stored[k]) for k, v in trainer.losses.state_dict().items()), "and trains them on"


@pytest.mark.parametrize("trainer", [SlimTrainer, DistillTrainer])
def test_training_that_rounds_to_int8(tmp_path, data, student, teacher, trainer):
    """Ultralytics' quantize=8, killed and resumed: the same ranges after it, and a plain slim detector at the end."""
    pytest.importorskip("modelopt", reason="NVIDIA ModelOpt is not installed: pip install yolo-slim[qat]")
    at_kill, at_start = {}, {}
    mortal = watched(killed_after(trainer, 1), lambda t: at_kill.update(live(t)), "on_train_epoch_end")
    files = under(teacher, kin=[True], features={"channels": {"weight": WEIGHT}})
    with pytest.raises(Killed):
        fit(mortal, student, tmp_path, data, files=files, quantize=8)
    resumed = watched(trainer, lambda t: at_start.update(live(t)), "on_train_start")
    fit(resumed, student, tmp_path, data, resume=True)
    assert any("quantizer" in name for name in at_kill)
    assert at_start.keys() == at_kill.keys()
    assert all(torch.equal(v, at_kill[k]) for k, v in at_start.items())
    best = checkpoint.load(tmp_path / "weights" / "best.pt")
    assert widths(best) == widths(checkpoint.load(student))
    assert not any("quantizer" in name for name in best.state_dict())
    assert "modelopt" not in checkpoint.read(checkpoint.save(best, tmp_path / "slim.pt"))


def test_recovery_from_nan_works_under_a_teacher_too(tmp_path, data, student, teacher):
    """Ultralytics copies the whole detector then; neither trainer nor teacher must hang on it. Adapters go back too."""
    at_end, again = {}, []

    def spoil(trainer):
        if trainer.epoch == 0:
            at_end.update({k: v.clone() for k, v in trainer.losses.state_dict().items()})
        elif not again:
            again.append(None)
            trainer.loss = torch.tensor(math.nan)

    class Recovering(DistillTrainer):
        def _handle_nan_recovery(self, epoch):
            recovered = super()._handle_nan_recovery(epoch)
            if recovered:
                again[0] = {k: v.clone() for k, v in self.losses.state_dict().items()}
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


DEEP = YAML.replace(
    "  - [[9, 12], 1, Detect, [nc]]",
    "  - [-1, 1, Conv, [48, 3, 2]]\n  - [-1, 1, Conv, [48, 3, 2]]\n  - [[9, 12, 14], 1, Detect, [nc]]",
)


@pytest.mark.parametrize(
    ("imgsz", "more", "said"),
    [
        pytest.param(96, {}, "stride of 64 pixels: it needs an imgsz .* not 96; the next is 128", id="not a multiple"),
        pytest.param(64, {"multi_scale": 0.5}, "with train.multi_scale or train.rect", id="of other sizes"),
        pytest.param(64, {}, None, id="a multiple"),
    ],
)
def test_a_teacher_with_a_larger_stride_needs_images_of_its_size(tmp_path, data, student, imgsz, more, said):
    deep = saved(tiny(tmp_path, DEEP), tmp_path / "deep.pt")
    more = {"imgsz": imgsz, "epochs": 1, "val": False, "files": under(deep, outputs={"binary": {}}), **more}
    if said is None:
        fit(DistillTrainer, student, tmp_path / "run", data, **more)
        return
    with pytest.raises(SlimError, match=rf"teacher .*deep\.pt has a {said}" if "stride" in said else said):
        fit(DistillTrainer, student, tmp_path / "run", data, **more)


def test_a_teacher_of_other_colours_is_refused(tmp_path, data, student):
    other = tiny(tmp_path)
    other.model[0].conv = torch.nn.Conv2d(1, 8, 6, 2, 2, bias=False)
    grey = saved(other, tmp_path / "grey.pt")
    with pytest.raises(SlimError, match=r"teacher .*grey\.pt looks at images of 1 channels, the student at 3"):
        fit(DistillTrainer, student, tmp_path / "run", data, files=under(grey))


def named(folder: Path, *names: str) -> Path:
    """A detector whose classes have names."""
    other = tiny(folder, seed=3)
    other.names = dict(enumerate(names))
    return saved(other, folder / f"{names[0]}.pt")


def test_classes_are_compared_by_name(tmp_path, data):
    """In another order they are as many, and each one is taught as another."""
    ours = named(tmp_path, "disc", "ring", "box", "bar")
    own = Path(data).with_name("discs.yaml")
    said = yaml.safe_load(Path(data).read_text())
    own.write_text(yaml.safe_dump({**said, "names": ["disc", "ring", "box", "bar"]}))
    theirs = named(tmp_path, "Ring", "disc", "box", "bar")
    with pytest.raises(SlimError, match=r"`binary` compares class by class: class 0 is 'disc' beside 'Ring' of the te"):
        fit(DistillTrainer, ours, tmp_path / "a", str(own), files=under(theirs, outputs={"binary": {}}))
    kin = named(tmp_path, "circle", "ring", "box", "bar")  # renamed: it was cut from it
    fit(DistillTrainer, ours, tmp_path / "b", str(own), epochs=1, files=under(kin, kin=[True], outputs={"binary": {}}))


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["disc", "ring", "box", "bar"], True),
        (["0", "1", "2", "3"], False),
        (["class_0", "class_1", "class_2", "class_3"], False),
        (["disc", "ring"], False),  # not those of its four classes
    ],
)
def test_names_that_say_something(tmp_path, names, known):
    detector = tiny(tmp_path)
    detector.names = dict(enumerate(names))
    assert names_of(detector) == (tuple(names) if known else ())


def test_a_teacher_may_know_other_classes(tmp_path, data, student):
    """Only maps are compared, so a detector trained on anything may teach."""
    other = saved(tiny(tmp_path, YAML.replace(f"nc: {CLASSES}", "nc: 9")), tmp_path / "other.pt")
    trainer = fit(DistillTrainer, student, tmp_path / "run", data, epochs=1, files=under(other), val=False)
    assert trainer.teachers[0].classes == 9 and trainer.model.model[-1].nc == CLASSES
    assert 0 < trainer.tloss["mimic"] < math.inf
