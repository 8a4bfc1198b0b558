"""Muon: what a step looks like, against the size of what it moves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from yolo_slim.training.muon import LEAST_SIZE, SHARE, Muon

RATE = 0.01


def stepped(start: torch.Tensor, gradients: list[torch.Tensor], rate: float = RATE) -> torch.Tensor:
    """How far one tensor has moved."""
    p = nn.Parameter(start.clone())
    optimizer = Muon([p], rate)
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
    return p.detach() - start


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 4, 3, 3), (8, 32, 1, 1), (32, 1, 5, 5), (7, 12)])
def test_all_directions_of_a_matrix_count_alike(shape: tuple[int, ...]) -> None:
    """Its singular values, of sizes 1 to 1000 in the gradient, come to the same but for what five iterations leave."""
    start = noise(*shape)
    rows, columns = start.flatten(1).shape
    u, _, v = torch.linalg.svd(noise(rows, columns, seed=1), full_matrices=False)
    gradient = (u * torch.logspace(0, 3, min(rows, columns)) @ v).reshape(shape)
    moved = stepped(start, [gradient]).flatten(1)
    size = float(start.square().mean().sqrt())
    found = torch.linalg.svdvals(moved) / (RATE * size * SHARE * max(rows, columns) ** 0.5)
    assert found[: max(len(found) // 2, 1)].min() > 0.6 and found.max() < 1.3
    assert float((moved * gradient.flatten(1)).sum()) < 0, "downhill"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_step_is_a_share_of_the_weights_whatever_the_gradient(scale: float) -> None:
    start, gradient = noise(8, 4, 3, 3), noise(8, 4, 3, 3, seed=1)
    moved = stepped(start, [gradient])
    other = stepped(start * 10, [gradient * scale])
    assert float((other - moved * 10).norm() / (moved * 10).norm()) < 0.05, "but for directions found in bfloat16"
    assert torch.allclose(stepped(start, [gradient], RATE / 2), moved / 2, rtol=1e-3, atol=1e-6)


def test_vectors_are_stepped_by_adam() -> None:
    start, gradients = noise(12), [noise(12, seed=seed) for seed in range(1, 6)]
    p = nn.Parameter(start.clone())
    adam = torch.optim.Adam([p], lr=RATE * float(start.square().mean().sqrt()), betas=(0.9, 0.99), eps=1e-8)
    for gradient in gradients:
        p.grad = gradient.clone()
        adam.step()
    assert torch.allclose(stepped(start, gradients), p.detach() - start, rtol=1e-4, atol=1e-7)


def test_a_tensor_of_zeros_moves_as_well() -> None:
    assert 0 < stepped(torch.zeros(6), [torch.ones(6)]).abs().max() <= RATE * LEAST_SIZE * 1.01


def test_what_has_no_gradient_or_no_numbers_is_left_alone() -> None:
    still, empty = nn.Parameter(noise(4, 4)), nn.Parameter(torch.zeros(0, 3))
    before = still.detach().clone()
    Muon([still, empty], RATE).step()
    assert torch.equal(still, before)


def test_its_state_goes_on(tmp_path) -> None:
    """Through a file, as a matching that was killed has it."""
    net, other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), None
    optimizer = Muon(net.parameters(), RATE)

    def step(network: nn.Module, taken: Muon, seed: int) -> None:
        taken.zero_grad()
        network(noise(2, 3, 8, 8, seed=seed)).square().mean().backward()
        taken.step()

    step(net, optimizer, 1)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(net)
    again = Muon(other.parameters(), RATE)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    step(net, optimizer, 2)
    step(other, again, 2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
