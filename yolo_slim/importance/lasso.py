"""How long a channel survives when its readers' outputs must be told from ever fewer channels.

He et al., Channel Pruning, ICCV 2017, arXiv:1707.06168, 3.1, step (i): scale the contribution Z_i = X_i W_i^T of each
input channel by beta_i so that the sum still gives the output Y, under a growing penalty lambda * |beta|_1. The paper
goes front to back and takes X from what it has cut already. Here all groups are scored on the uncut detector, so that
one budget can choose between them; step (ii), least squares front to back, is `prune.reconstruct`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.channels import Trace
from yolo_slim.importance.combine import Rows
from yolo_slim.importance.evidence import Evidence
from yolo_slim.importance.places import watch

EVENTS = 8  # at most, for each channel
ROUNDING = 1e-9  # relative, between two events at the same lambda
DEPENDENT = 1e-6  # a channel of which the others explain all but this share has nothing of its own


def lasso(detector: nn.Module, trace: Trace, evidence: Evidence) -> Rows:
    """The largest lambda at which a channel's beta is not zero, so that any ratio can be read off: one row a group.

    beta minimises 1/2 sum_q |Y_q - sum_i beta_i Z_qi|^2 / |Y_q|^2 + lambda |beta|_1: one for all consumers q of a
    group, each relative to the energy of its own output, which makes lambda a share of that energy, without a unit.
    Y and Z are taken about their means (an intercept, which absorption provides), both from the detector as it is, at
    `evidence.points` random output positions an image. Only second moments of what the filters see are held: 4 bytes
    times (in_channels * kh * kw)^2 for each consumer.

    Raises:
        SlimError: no images.
    """
    kernels = _contributions(detector, trace, evidence)
    found: Rows = {}
    for group in trace.free:
        gram, target = np.zeros((group.size, group.size)), np.zeros(group.size)
        for name in group.consumers:
            if name in kernels and (energy := kernels[name].sum()) > 0:
                fills = (group.channels[:, None] == trace.convs[name].inputs).astype(float)  # [n, Ci]
                gram += fills @ kernels[name] @ fills.T / energy
                target += (fills @ kernels[name]).sum(1) / energy
        found[group.name] = survival(gram, target)[None]
    return found


def _contributions(detector: nn.Module, trace: Trace, evidence: Evidence) -> dict[str, np.ndarray]:
    """Covariances of what the input slots of each consumer add to its output: consumer -> [Ci, Ci], summed over Co.

    <Z_i, Z_j> = sum over a in i, b in j of (P^T P)_ab (W^T W)_ab for patches P, so no Z is ever made.
    """
    generator = torch.Generator().manual_seed(evidence.seed)
    moments: dict[str, tuple[int, Tensor, Tensor]] = {}  # consumer -> number of patches, their sum, P^T P

    def add(name: str, values: Tensor) -> None:
        patches = _patches(trace.convs[name].layer(detector), values, evidence.points, generator)
        if name not in moments:
            moments[name] = (
                0,
                patches.new_zeros(patches.shape[1]),
                patches.new_zeros(patches.shape[1], patches.shape[1]),
            )
        n, total, square = moments[name]
        moments[name] = (n + len(patches), total.add_(patches.sum(0)), square.addmm_(patches.T, patches))

    watch(detector, trace, evidence, "lasso", "read", add)
    kernels = {}
    for name in list(moments):
        n, total, square = moments.pop(name)
        weight = trace.convs[name].layer(detector).weight.detach().float().flatten(1)  # [Co, Ci*kh*kw]
        shared = (square / n).addr_(total / n, total / n, alpha=-1) * (weight.T @ weight)
        slots = len(trace.convs[name].inputs)
        kernels[name] = shared.view(slots, -1, slots, len(shared) // slots).sum((1, 3)).double().cpu().numpy()
    return kernels


def _patches(conv: nn.Conv2d, values: Tensor, points: int, generator: torch.Generator) -> Tensor:
    """What the filters see at random output positions: [B*points, Ci*kh*kw]."""
    # As the convolution itself pads where its operator cannot: right for numbers, for "same", for every mode.
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    values = nn.functional.pad(values, conv._reversed_padding_repeated_twice, mode)
    n = len(values) * points
    lines = []
    for side, kernel, stride, step in zip(values.shape[2:], conv.kernel_size, conv.stride, conv.dilation, strict=True):
        positions = (side - step * (kernel - 1) - 1) // stride + 1
        corner = torch.randint(positions, (n, 1), generator=generator) * stride
        lines.append((corner + step * torch.arange(kernel)).to(values.device))  # [n, k]
    rows, columns = lines
    image = torch.arange(len(values), device=values.device).repeat_interleave(points)
    seen = values[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [n, kh, kw, Ci]
    return seen.permute(0, 3, 1, 2).flatten(1)


def survival(gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The largest lambda at which each beta of the LASSO 1/2 b^T G b - t^T b + lambda |b|_1 is not zero: (n,).

    The path is piecewise linear, so it is followed exactly from the lambda at which all are zero, one channel entering
    or leaving at a time (Osborne et al. 2000; Efron et al. 2004, 3.1). A channel that those before it can stand in for
    never enters: 0.

    Args:
        gram: (n, n), positive semidefinite: Z^T Z.
        target: (n,): Z^T Y.
    """
    n, scale, found = len(target), np.diag(gram), np.zeros(len(target))
    # With b of the channels outside at zero, and the pull c = t - G b of those inside at sign * lambda, the others are
    # table[:, :n] @ c + table[:, n]: b of those inside, c of those outside. Entering or leaving exchanges b with c.
    table = np.column_stack([-gram, target]).astype(float)
    sign, here, back = np.zeros(n), np.inf, (-1, -1)
    for _ in range(EVENTS * n):
        slope, start = table[:, :n] @ sign, table[:, n]
        with np.errstate(divide="ignore", invalid="ignore"):
            events = np.stack([-start / slope, start / (1 - slope), -start / (1 + slope)])  # leaves, enters as +, as -
        possible = (events > 0) & (events <= here * (1 + ROUNDING))
        possible[0] &= sign != 0
        possible[1:] &= (sign == 0) & (-np.diag(table) > DEPENDENT * scale)
        if back[1] >= 0:
            possible[back] = False  # what has just been done would be undone at the same lambda
        events[~possible] = 0
        kind, i = map(int, np.unravel_index(events.argmax(), events.shape))
        if not possible[kind, i]:
            break
        here = min(here, events[kind, i])
        back = (0 if kind else 1 if sign[i] > 0 else 2, i)
        sign[i] = (0, 1, -1)[kind]
        found[i] = max(found[i], here if kind else 0)
        _exchange(table, i)
    return found


def _exchange(table: np.ndarray, i: int) -> None:
    """Solve row `i` for its own variable, and put it into the other rows."""
    column, pivot = table[:, i].copy(), table[i, i]
    row = table[i] / -pivot
    table += np.outer(column, row)
    table[i], table[:, i] = row, column / pivot
    table[i, i] = 1 / pivot
