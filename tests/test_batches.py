"""Recalibration: running statistics are the average over the batches; which images those are, and that they stay so;
what the loss on them is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from training_helpers import CLASSES, PX, TRAIN, draw_shapes, tiny
from ultralytics.cfg import get_cfg
from ultralytics.utils.loss import v8DetectionLoss

from yolo_slim import SlimError
from yolo_slim.data import dataset_info, facts
from yolo_slim.data.batches import Batches, Shown, beyond, first
from yolo_slim.measure.loss import detection_loss
from yolo_slim.pruning.recalibrate import recalibrate


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("data"))


def alone(momentum: float | None = 0.03) -> nn.Sequential:
    """One batch norm of one channel behind a convolution that passes its input on, with statistics that are wrong."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, momentum=momentum))
    with torch.no_grad():
        network[0].weight.fill_(1)
        network[1].running_mean.fill_(9)
        network[1].running_var.fill_(9)
        network[1].num_batches_tracked.fill_(9)
    return network


def test_statistics_are_the_average_over_batches_by_hand():
    # means 1 and 5; variances, with n - 1 as batch norm keeps them: (1 + 1) / 1 = 2 and (9 + 9) / 1 = 18
    batches = [torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1), torch.tensor([2.0, 8.0]).reshape(2, 1, 1, 1)]
    network = recalibrate(alone(), batches)
    assert network[1].running_mean.item() == pytest.approx((1 + 5) / 2)
    assert network[1].running_var.item() == pytest.approx((2 + 18) / 2)


@pytest.mark.parametrize("order", [1, -1])
def test_the_last_batch_weighs_no_more_than_the_first(order):
    batches = [torch.full((2, 1, 2, 2), float(v)) + torch.randn(2, 1, 2, 2) for v in range(8)][::order]
    network = recalibrate(alone(), batches)
    assert network[1].running_mean.item() == pytest.approx(torch.stack([b.mean() for b in batches]).mean().item())
    assert network[1].running_var.item() == pytest.approx(torch.stack([b.var() for b in batches]).mean().item())


@pytest.mark.parametrize("momentum", [0.03, 0.1, None])
def test_all_else_stays_as_it_was(momentum):
    network = alone(momentum).train()
    weights = {k: v.clone() for k, v in network.named_parameters()}
    returned = recalibrate(network, [torch.randn(4, 1, 2, 2)])
    assert returned is network, "in place"
    assert network[1].momentum == momentum
    assert not any(m.training for m in network.modules())
    assert all(torch.equal(v, weights[k]) for k, v in network.named_parameters())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_a_generator_is_as_good_as_a_list():
    batches = [torch.randn(4, 1, 2, 2) for _ in range(3)]
    first, second = recalibrate(alone(), batches), recalibrate(alone(), (b for b in batches))
    assert torch.equal(first[1].running_var, second[1].running_var)


def test_it_repairs_a_detector_whose_statistics_are_wrong(tmp_path, data):
    """With its own images' statistics every batch norm puts out what it does in train mode on one batch of all."""
    detector = tiny(tmp_path)
    (batch,) = Batches(data, PX, TRAIN)
    recalibrate(detector, [batch])
    norm, seen = detector.model[0].bn, []
    norm.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    with torch.no_grad():
        detector(batch)
    (into, out) = seen[0]
    assert torch.allclose(norm.running_mean, into.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(out.mean((0, 2, 3)), norm.bias, atol=1e-3)
    moved = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d) and m.num_batches_tracked == 1]
    assert len(moved) == sum(isinstance(m, nn.BatchNorm2d) for m in detector.modules())


# ---------------------------------------------------------------------------------------------------------------------
# Images


def test_images_are_what_the_detector_is_fed(data):
    batches = list(Batches(data, PX, 10, batch=4))
    assert [tuple(b.shape) for b in batches] == [(4, 3, PX, PX), (4, 3, PX, PX), (2, 3, PX, PX)]
    assert all(b.dtype == torch.float32 and b.min() >= 0 and 0.5 < b.max() <= 1 for b in batches)


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (5, 5), (TRAIN, TRAIN), (500, TRAIN)])
def test_as_many_as_asked_for_or_as_there_are(data, n, expected):
    assert sum(len(b) for b in Batches(data, PX, n)) == expected


def test_a_seed_draws_the_same_images_and_another_seed_others(data):
    first, again, other = (torch.cat(list(Batches(data, PX, 6, seed=s, batch=2))) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    everything = torch.cat(list(Batches(data, PX, TRAIN)))
    found = [(everything == image).flatten(1).all(1).sum().item() for image in first]
    assert found == [1] * 6, "drawn without replacement, and not augmented"


def test_batching_does_not_change_what_is_drawn(data):
    assert torch.equal(torch.cat(list(Batches(data, PX, 6, batch=1))), torch.cat(list(Batches(data, PX, 6, batch=6))))


@pytest.mark.parametrize(("split", "count"), [("train", TRAIN), ("val", 4), ("test", 2)])
def test_splits(data, split, count):
    assert sum(len(b) for b in Batches(data, PX, 100, split=split)) == count


@pytest.mark.parametrize("imgsz", [32, 96])
def test_images_come_at_the_size_asked_for(data, imgsz):
    assert next(iter(Batches(data, imgsz, 2))).shape == (2, 3, imgsz, imgsz)


def test_a_split_that_is_not_there_is_named(tmp_path):
    data = draw_shapes(tmp_path, train=2, val=1, test=0)
    with pytest.raises(SlimError, match=r"shapes\.yaml has no 'test' images"):
        next(iter(Batches(data, PX, 1, split="test")))


def test_a_data_set_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SlimError, match=r"cannot use the data set .*nowhere\.yaml"):
        next(iter(Batches(str(tmp_path / "nowhere.yaml"), PX, 1)))


@pytest.mark.parametrize(
    "change",
    [
        {"train": "images/gone"},  # a folder that is not there
        {"names": None},  # no classes
    ],
)
def test_a_data_set_that_is_wrong_is_named(tmp_path, change):
    data = Path(draw_shapes(tmp_path, train=2, val=1, test=0))
    described = {k: v for k, v in {**yaml.safe_load(data.read_text()), **change}.items() if v is not None}
    data.write_text(yaml.safe_dump(described))
    with pytest.raises(SlimError, match=r"shapes\.yaml"):
        next(iter(Batches(str(data), PX, 1)))


def test_an_empty_split_is_said(tmp_path):
    data = draw_shapes(tmp_path, train=2, val=1, test=0)
    for picture in (Path(data).parent / "images" / "train").iterdir():
        picture.unlink()
    with pytest.raises(SlimError, match=r"cannot read the 'train' images of .*shapes\.yaml"):
        next(iter(Batches(data, PX, 1)))


def test_dataset_info_holds_names_and_splits(data):
    info = dataset_info(data)
    assert info["nc"] == len(info["names"]) == 4
    assert all(Path(info[split]).is_dir() for split in ("train", "val", "test"))


def test_labels_come_with_their_image(data):
    """Of whatever images the seed draws, in whatever order: what the label file beside the picture says."""
    seen = 0
    for batch in Batches(data, PX, 7, batch=3, seed=5, labelled=True):
        assert batch["img"].dtype == torch.float32 and batch["img"].max() <= 1
        for i, picture in enumerate(batch["im_file"]):
            file = Path(picture.replace("images", "labels")).with_suffix(".txt")
            expected = torch.tensor([[float(v) for v in line.split()] for line in file.read_text().splitlines()])
            here = batch["batch_idx"] == i
            found = torch.cat([batch["cls"][here], batch["bboxes"][here]], 1)
            assert torch.allclose(found, expected.reshape(-1, 5), atol=1e-4)
            seen += len(found)
    assert seen > 7


def test_labelled_or_not_the_images_are_the_same(data):
    with_labels = [batch["img"] for batch in Batches(data, PX, 7, batch=3, seed=5, labelled=True)]
    assert all(map(torch.equal, with_labels, Batches(data, PX, 7, batch=3, seed=5)))


def test_images_are_read_once_when_first_asked_for_and_held_as_bytes(data, monkeypatch):
    reads = []
    build = facts.build_yolo_dataset
    monkeypatch.setattr(facts, "build_yolo_dataset", lambda *a, **k: reads.append(1) or build(*a, **k))
    batches = Batches(data, PX, 4)
    assert not reads
    for image in batches:
        image.zero_()  # whoever gets them may write to them
    assert all(image.max() > 0.5 for image in batches) and len(reads) == 1
    assert {item["img"].dtype for item in batches.items} == {torch.uint8}


@pytest.mark.parametrize("labelled", [False, True])
def test_a_bar_changes_nothing(data, labelled, capsys):
    plain = Batches(data, PX, 7, batch=3, labelled=labelled)
    shown = Shown(Batches(data, PX, 7, batch=3, labelled=labelled), "looking")
    for _ in range(2):
        pairs = list(zip(plain, shown, strict=True))
        assert len(pairs) == 3
        assert all(torch.equal(*((b["img"] if labelled else b) for b in pair)) for pair in pairs)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        pytest.param(0, [], id="none"),
        pytest.param(1, [1], id="part of the first batch"),
        pytest.param(3, [3], id="the first batch, and not a look at the second"),
        pytest.param(4, [3, 1], id="part of the second"),
        pytest.param(7, [3, 3, 1], id="all"),
        pytest.param(99, [3, 3, 1], id="as many as there are"),
    ],
)
def test_the_first_images(n, expected):
    batches = torch.arange(7.0).reshape(7, 1, 1, 1).split(3)
    taken = list(first(batches, n))
    assert [len(batch) for batch in taken] == expected
    assert torch.cat([*taken, torch.empty(0, 1, 1, 1)]).flatten().tolist() == list(range(min(n, 7)))


# ---------------------------------------------------------------------------------------------------------------------
# Loss


@pytest.fixture(scope="module")
def labelled(data):
    return list(Batches(data, PX, 8, batch=4, labelled=True))


@pytest.fixture
def net(tmp_path):
    return tiny(tmp_path).eval()


@pytest.mark.parametrize("stored", [{}, {"box": 2.0, "cls": 3.0, "dfl": 0.5}, get_cfg(overrides={"cls": 4.0})], ids=str)
def test_the_loss_is_ultralytics_own(net, labelled, stored):
    """Box, class and distribution terms as its validator adds them up, with the gains that the detector stores."""
    net.args = get_cfg(overrides=stored if isinstance(stored, dict) else vars(stored))
    items = [v8DetectionLoss(net)(net(batch["img"]), batch)[1] for batch in labelled]
    net.args = stored
    for batch, expected in zip(labelled, items, strict=True):
        assert detection_loss(net, batch).item() == pytest.approx(sum(v.item() for v in expected.values()), rel=1e-5)


def test_a_loss_made_before_does_not_answer_for_this_detector(net, labelled):
    """Its gains may be others: training stores the criterion on the detector."""
    expected = detection_loss(net, labelled[0]).item()
    net.args = get_cfg(overrides={"box": 100.0})
    net.criterion = net.init_criterion()
    net.args = {}
    assert detection_loss(net, labelled[0]).item() == pytest.approx(expected)


def test_the_loss_has_a_gradient_everywhere(net, labelled):
    trainable = {name: p for name, p in net.named_parameters() if "dfl" not in name}
    gradients = torch.autograd.grad(detection_loss(net, labelled[0]), list(trainable.values()))
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in gradients)


def test_an_image_without_objects_has_a_loss(net, labelled):
    """It says: nothing here."""
    empty = {**labelled[0], "cls": torch.empty(0, 1), "bboxes": torch.empty(0, 4), "batch_idx": torch.empty(0)}
    assert 0 < detection_loss(net, empty).item() < float("inf")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("criterion", [None, "one of its own"])
def test_the_detector_is_as_it_was(net, labelled, criterion, fails):
    stored = {"box": 2.0}
    net.args, net.criterion = stored, criterion
    before = {k: v.clone() for k, v in net.state_dict().items()}
    if fails:
        with pytest.raises(KeyError):
            detection_loss(net, {"img": labelled[0]["img"]})
    else:
        detection_loss(net, labelled[0]).backward()
    assert net.args is stored and stored == {"box": 2.0} and net.criterion is criterion
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not net.training and net.model[-1].nc == CLASSES


@pytest.mark.parametrize("n", range(-1, 9))
def test_what_comes_first_and_what_lies_beyond_are_all(n: int) -> None:
    every = torch.arange(7.0).reshape(7, 1, 1, 1)
    batches = every.split(3)
    parts = [list(part(batches, n)) for part in (first, beyond)]
    assert torch.equal(torch.cat([batch for part in parts for batch in part]), every)
    assert sum(map(len, parts[0])) == min(max(n, 0), 7) and all(len(batch) for part in parts for batch in part)
