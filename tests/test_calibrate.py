"""Recalibration: running statistics are the average over the batches; which images those are, and that they stay so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from training_helpers import PX, TRAIN, draw_shapes, tiny

from yolo_slim import SlimError
from yolo_slim.training.calibrate import Batches, dataset_info, recalibrate


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
