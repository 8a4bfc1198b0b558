"""What every plan of a trace costs, computed from shapes: no model is built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolo_slim.channels.groups import Ints, Trace

NORM_OPS = 4  # thop's count per element of a batch norm in inference; half of it without scale and shift
STORED_BYTES = 2  # checkpoints hold fp16


@dataclass(frozen=True)
class Budget:
    """What a detector costs: `params` and `buffers` in numbers, `macs` per image as thop counts them."""

    params: int
    macs: int
    buffers: int = 0  # running means and variances: in the file, but no parameters

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * self.macs


class Costs:
    """The cost of every plan of a trace, as a function of how many channels each group keeps.

    Convolution: positions * kernel * in/groups * out MACs; batch norm: 4 per element, as thop counts it. So the sum
    equals `thop.profile` on the detector that the plan would give.
    """

    def __init__(self, trace: Trace) -> None:
        self.groups, self.names = trace.groups, list(trace.convs)
        owner = np.full(trace.n_channels + 1, len(trace.groups))  # FIXED = -1 finds the last entry
        for i, group in enumerate(trace.groups):
            owner[group.channels] = i
        width = len(trace.groups) + 1

        def occupancy(slots: list[Ints]) -> np.ndarray:
            return np.array([np.bincount(owner[s], minlength=width) for s in slots]).reshape(len(slots), width)

        convs, norms = list(trace.convs.values()), list(trace.norms.values())
        # (layers, groups + 1): how many slots each channel of a group fills; the last column: slots that are fixed
        sizes = np.array([g.size for g in trace.groups] + [1])
        self.inputs = occupancy([c.inputs for c in convs]) / sizes
        self.outputs = occupancy([c.outputs for c in convs]) / sizes
        self.scales = occupancy([n.channels for n in norms]) / sizes
        self.dense = np.array([not c.depthwise for c in convs])
        self.kernel = np.array([c.kernel for c in convs], float)
        self.positions = np.array([c.positions for c in convs], float)
        self.split = np.array([1 if c.depthwise else c.groups for c in convs], float)
        self.bias = np.array([c.bias for c in convs], float)
        self.norm_positions = np.array([n.positions for n in norms], float)
        self.affine = np.array([n.affine for n in norms], float)
        self.full = np.array([g.size for g in trace.groups])
        self.other_params = 0
        self.other_params = trace.params - self.of(self.full).params

    def shapes(self, keeps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and outputs of every convolution, of M plans at once: (M, groups) widths -> twice (M, convs)."""
        k = np.concatenate([keeps, np.ones((len(keeps), 1))], axis=1)
        return np.where(self.dense, k @ self.inputs.T, 1), k @ self.outputs.T

    def of(self, keeps: np.ndarray) -> Budget:
        """The cost when group i keeps `keeps[i]` channels."""
        params, macs, buffers = self.many(keeps[None])[0]
        return Budget(int(params), int(macs), int(buffers))

    def many(self, keeps: np.ndarray) -> np.ndarray:
        """Of M plans at once: (M, groups) widths -> (M, 3) whole numbers: params, macs, buffers."""
        into, out = self.shapes(keeps)
        scales = np.concatenate([keeps, np.ones((len(keeps), 1))], axis=1) @ self.scales.T
        weights = self.kernel * into / self.split * out
        params = weights.sum(1) + out @ self.bias + 2 * (scales @ self.affine) + self.other_params
        macs = weights @ self.positions + NORM_OPS / 2 * (scales @ (self.norm_positions * (1 + self.affine)))
        return np.rint(np.stack([params, macs, 2 * scales.sum(1)], axis=1))
