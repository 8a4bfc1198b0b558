"""A detector run again and again computes the same as at once, keeps no more than it may, and is left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from networks import PX, Act, Fn, Network, Twice, detector
from torch import Tensor, nn

from yolo_slim.channels.memo import Memo

LIMITS = [0, 20_000, 60_000, 2 << 30]  # nothing fits, some of it, all of it


def images(n: int = 3, px: int = PX) -> list[Tensor]:
    return [torch.rand(2, 3, px, px, generator=torch.Generator().manual_seed(i)) for i in range(n)]


def settle(net: nn.Module, waiting: list[str], batches: list[Tensor], limit: int) -> Iterator[dict]:
    """Settle layers level by level, as reconstruction does: for each level, (layer, call, batch) -> its input."""
    memo, left = Memo(net, limit), set(waiting)
    while left:
        ready = [name for name, _ in memo.probe(0, batches[0], left)]
        left &= memo.calls.keys()
        found = {}
        for number, batch in enumerate(batches):
            for call, (name, image) in enumerate(memo.run(number, batch, left, ready)):
                found[name, call, number] = image
            assert memo.bytes <= limit
        memo.forget_unread()
        held = [k.bytes for known in memo.known.values() for k in known.values() if k]
        assert memo.bytes == sum(held) <= limit
        yield found
        assert left & set(ready) or not left, "every level settles something"
        left -= set(ready)


@torch.no_grad()
def inputs_of(net: nn.Module, name: str, batch: Tensor) -> list[Tensor]:
    """What a layer reads, call by call, in an ordinary pass."""
    seen: list[Tensor] = []
    handle = net.get_submodule(name).register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
    net(batch)
    handle.remove()
    return seen


def true_to(net: nn.Module, waiting: list[str], batches: list[Tensor], limit: int) -> int:
    """Every input that is found is the one of an ordinary pass; returns how many there were."""
    count = 0
    for found in settle(net, waiting, batches, limit):
        for (name, _, number), image in found.items():
            assert any(torch.equal(image, other) for other in inputs_of(net, name, batches[number])), (name, number)
            count += 1
    return count


def convolutions(net: nn.Module) -> list[str]:
    return [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d)]


# ---- the law: what is handed out is what would be computed ----


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("seed", range(6))
def test_random_networks(seed: int, limit: int) -> None:
    net, batches = Network(seed), images()
    for share in (0.3, 1.0):
        names = convolutions(net)
        chosen = np.random.default_rng(seed).permutation(names)[: max(1, int(share * len(names)))].tolist()
        assert true_to(net, chosen, batches, limit) > 0


@pytest.mark.parametrize("limit", [0, 200_000, 2 << 30])
@pytest.mark.parametrize("name", ["yolov5n", "yolov3-tiny"])
def test_detectors(name: str, limit: int) -> None:
    net = detector(name)
    assert true_to(net, convolutions(net)[3::9], images(2, px=64), limit) == 2 * len(convolutions(net)[3::9])


# ---- networks that a memory could get wrong ----


class Wired(nn.Module):
    """Layers a, b, c ... put together by a function of them and an image."""

    def __init__(self, wire: Callable, **layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wire = wire
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        return self.wire(self, image)


def conv(c1: int = 3, c2: int = 3) -> nn.Conv2d:
    return nn.Conv2d(c1, c2, 3, padding=1)


def late_reader(net: Wired, x: Tensor) -> Tensor:
    """`a` is read only behind the layer that is fitted first."""
    a = net.a(x)
    return net.d(torch.cat([a, net.c(net.b(x))], 1))


def in_place_by_name(net: Wired, x: Tensor) -> Tensor:
    y = net.a(x)
    y.mul_(2)  # not bound anew: what `a` gave is another thing from here on
    return net.d(net.c(net.b(y)) + y)


def in_place_by_operator(net: Wired, x: Tensor) -> Tensor:
    y = net.a(x)
    y += net.b(x)
    return net.d(net.c(y) + y)


def in_place_by_keyword(net: Wired, x: Tensor) -> Tensor:
    y = net.a(x)
    return net.d(net.c(net.b(nn.functional.silu(y, inplace=True))) + y)


def in_place_by_index(net: Wired, x: Tensor) -> Tensor:
    y = net.a(x)
    y[:, 0] = 1.0
    return net.d(net.c(net.b(y)) + y)


def in_place_on_a_view(net: Wired, x: Tensor) -> Tensor:
    y = net.a(x)
    first, _ = y.split([1, 2], 1)
    first.mul_(3)
    return net.d(net.c(net.b(y)) + y)


def overwritten_after_reading(net: Wired, x: Tensor) -> Tensor:
    """What `c` reads is something else by the end of the pass."""
    y = net.a(x)
    z = net.c(net.b(y))
    y.zero_()
    return net.d(z + y)


def called_twice(net: Wired, x: Tensor) -> Tensor:
    return net.d(net.c(net.a(net.b(net.a(x)))))


def feeds_itself(net: Wired, x: Tensor) -> Tensor:
    return net.d(net.c(net.c(net.b(net.a(x)))))


def an_index(net: Wired, x: Tensor) -> Tensor:
    """The index holds no NaN, and depends on what waits all the same."""
    y = net.a(x)
    return net.d(net.c(net.b(y)) * net.pick(y).unsqueeze(1))


def a_number(net: Wired, x: Tensor) -> Tensor:
    return net.d(net.c(net.b(net.a(x) * net.gain(x))))


def nothing_at_all(net: Wired, x: Tensor) -> Tensor:
    net.empty(x)
    return net.d(net.c(net.b(net.a(x))))


PARTS = {
    "pick": lambda: Fn(lambda x: x.argmax(1)),
    "gain": lambda: Fn(lambda x: torch.tensor(0.5)),
    "empty": lambda: Fn(lambda x: x[:0, :, 0, 0]),
}


@pytest.mark.parametrize("limit", [0, 30_000, 2 << 30])
@pytest.mark.parametrize("waiting", ["b", "c", "d", "bc", "cd", "ad", "bcd", "abcd"])
@pytest.mark.parametrize(
    "wire",
    [
        late_reader,
        in_place_by_name,
        in_place_by_operator,
        in_place_by_keyword,
        in_place_by_index,
        in_place_on_a_view,
        overwritten_after_reading,
        called_twice,
        feeds_itself,
        an_index,
        a_number,
        nothing_at_all,
    ],
)
def test_awkward_networks(wire: Callable, waiting: str, limit: int) -> None:
    layers = {name: conv() for name in "abc"} | {"d": conv(6 if wire is late_reader else 3)}
    net = Wired(wire, **layers, **{name: make() for name, make in PARTS.items()})
    assert true_to(net, list(waiting), images(), limit) >= 3 * len(waiting)


class Shared(nn.Module):
    """A container that is kept as a whole; inside, one convolution is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = Twice(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(x, x.flip(3))


@pytest.mark.parametrize("limit", LIMITS)
def test_calls_are_not_confused_when_only_some_batches_fit(limit: int) -> None:
    """The container is known for the first batch only, so nothing is seen of the two calls inside of it there."""
    net = nn.Sequential(Act(3, 4), Shared(), Act(8, 4), Act(4, 4)).eval()
    assert true_to(net, ["2.0", "3.0"], images(), limit) == 6


def test_a_limit_that_holds_some_batches_forgets_nothing_that_is_needed() -> None:
    """`late` is settled early and reached early in one batch, computed from `stem` in the others."""

    def wire(net: Wired, x: Tensor) -> Tensor:
        y = net.stem(x)
        return net.end(torch.cat([net.b(net.a(x)), net.late(y)], 1))

    net = Wired(wire, stem=conv(3, 8), a=conv(), b=conv(), late=conv(8, 3), end=conv(6))
    one = 2 * 3 * PX * PX * 4
    for limit in range(0, 12 * one, one):
        true_to(net, ["a", "b", "end"], images(), limit)


# ---- economy ----


def test_what_is_settled_is_computed_once() -> None:
    """Ten layers in a row: each is run once for each batch, its input is not recomputed, and two outputs stay."""
    net, batches = nn.Sequential(*(conv() for _ in range(10))).eval(), images()
    runs = dict.fromkeys(convolutions(net), 0)

    def count(layer: nn.Conv2d, name: str) -> None:
        forward = layer._conv_forward

        def counted(image: Tensor, *rest: Tensor) -> Tensor:
            runs[name] += int(not image.isnan().any())
            return forward(image, *rest)

        layer._conv_forward = counted

    for name in runs:
        count(net.get_submodule(name), name)
    memo, left = Memo(net, 2 << 30), set(runs)
    one, most = 2 * 3 * PX * PX * 4, 0
    while left:
        ready = [name for name, _ in memo.probe(0, batches[0], left)]
        for number, batch in enumerate(batches):
            memo.run(number, batch, left, ready)
        memo.forget_unread()
        left -= set(ready)
        most = max(most, memo.bytes)
    assert max(runs.values()) <= len(batches) + 2, "once a batch, once in the probe, once for the shape"
    assert most <= 2 * one * len(batches)


def test_without_memory_nothing_is_kept() -> None:
    net = nn.Sequential(conv(), conv(), conv()).eval()
    memo = Memo(net, 0)
    memo.run(0, images()[0], {"2"}, ["2"])
    assert memo.bytes == 0 and not memo.known[0]


def test_a_view_counts_with_all_that_it_holds_on_to() -> None:
    net = nn.Sequential(conv(3, 8), Fn(lambda x: x[:, :1]), conv(1, 3)).eval()
    memo = Memo(net, 2 << 30)
    memo.run(0, images()[0], {"2"}, ["2"])
    assert memo.bytes >= 2 * 8 * PX * PX * 4


# ---- the detector is left alone ----


def state(net: nn.Module) -> tuple:
    return (
        {k: v.clone() for k, v in net.state_dict().items()},
        [m.training for m in net.modules()],
        [vars(m).get("forward") for m in net.modules()],
        [getattr(m, "inplace", None) for m in net.modules()],
    )


def same(a: tuple, b: tuple) -> bool:
    return a[1:] == b[1:] and all(torch.equal(v, b[0][k]) for k, v in a[0].items())


def prepared() -> nn.Module:
    """In train mode with one part in eval mode, activations in place, one `forward` of its own."""
    net = nn.Sequential(Act(3, 4, act=nn.ReLU(inplace=True)), Act(4, 4, act=nn.ReLU(inplace=True)), conv(4, 4)).train()
    net[0].eval()
    net[1][2].forward = torch.relu
    return net


def test_the_detector_is_as_it_was() -> None:
    net = prepared()
    before = state(net)
    true_net = copy.deepcopy(net).eval()
    memo = Memo(net, 2 << 30)
    (found,) = memo.run(0, images()[0], {"2"}, ["2"])
    assert same(before, state(net))
    assert torch.equal(found[1], inputs_of(true_net, "2", images()[0])[0])


@pytest.mark.parametrize("batch", [torch.rand(2, 5, PX, PX), torch.rand(2, 3, 0, 0), "no image"])
def test_also_when_a_batch_cannot_be_read(batch: object) -> None:
    net = prepared()
    before = state(net)
    memo = Memo(net, 2 << 30)
    with pytest.raises((RuntimeError, TypeError, AttributeError)):
        memo.run(0, batch, {"2"}, ["2"])
    assert same(before, state(net))
