"""What every plan of a trace costs, computed from shapes: no model is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from yolo_slim.channels.groups import Group, Ints, Trace
from yolo_slim.errors import SlimError

NORM_OPS = 4  # thop's count per element of a batch norm in inference; half of it without scale and shift
STORED_BYTES = 2  # checkpoints hold fp16
SHARES = ("flops", "params", "channels")


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
    equals `thop.profile` on the detector that the plan would give (algorithms: cost accounting).
    """

    def __init__(self, trace: Trace) -> None:
        self.groups = trace.groups
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

    def of(self, keeps: np.ndarray) -> Budget:
        """The cost when group i keeps `keeps[i]` channels."""
        params, macs, buffers = self.many(keeps[None])[0]
        return Budget(int(params), int(macs), int(buffers))

    def many(self, keeps: np.ndarray) -> np.ndarray:
        """Of M plans at once: (M, groups) widths -> (M, 3) whole numbers: params, macs, buffers."""
        k = np.concatenate([keeps, np.ones((len(keeps), 1))], axis=1)
        into = np.where(self.dense, k @ self.inputs.T, 1) / self.split  # [M, convs]
        out, scales = k @ self.outputs.T, k @ self.scales.T
        weights = self.kernel * into * out
        params = weights.sum(1) + out @ self.bias + 2 * (scales @ self.affine) + self.other_params
        macs = weights @ self.positions + NORM_OPS / 2 * (scales @ (self.norm_positions * (1 + self.affine)))
        return np.rint(np.stack([params, macs, 2 * scales.sum(1)], axis=1))


class Meter:
    """Every cost that a target may name, under the target's name and in its unit.

    `flops`, `params`, `channels` and the caller's own tables as shares of the whole detector's; `size_mb`, the file of
    a checkpoint, in megabytes (1e6 bytes).

    Args:
        trace: of the detector.
        counted: bool per group, those whose channels `channels` counts.
        tables: name -> {group name: (n + 1,) cost of keeping 0..n of its channels}, added up over groups; a group
            that is not named costs nothing. May not fall with width.
        overhead: bytes of a checkpoint beside its numbers; None: `size_mb` is not told.
        whole: trace of the detector that shares refer to, where residual branches were dropped from it since.
        total: channels that `channels` is a share of; None: those counted.

    Raises:
        SlimError: a table that does not fit the trace.
    """

    def __init__(
        self,
        trace: Trace,
        counted: np.ndarray,
        tables: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        overhead: float | None = None,
        *,
        whole: Trace | None = None,
        total: int | None = None,
    ) -> None:
        self.costs, self.counted, self.overhead = Costs(trace), counted, overhead
        self.full = self.costs.full
        self.total = int(self.full[counted].sum()) if total is None else total
        first = Costs(whole) if whole else self.costs
        self.before = first.of(first.full)
        left = {g.name for g in trace.groups}
        self.tables, self.tables_before = {}, {}
        for name, table in (tables or {}).items():
            self.tables_before[name] = sum(row[-1] for row in _checked(name, table, first.groups).values())
            self.tables[name] = _stacked({g: row for g, row in table.items() if g in left}, trace.groups)

    def many(self, keeps: np.ndarray) -> dict[str, np.ndarray]:
        """Of M plans at once: (M, groups) widths -> name -> (M,)."""
        params, macs, buffers = self.costs.many(keeps).T
        found = {
            "flops": macs / (self.before.macs or 1),
            "params": params / (self.before.params or 1),
            "channels": keeps[:, self.counted].sum(1) / self.total if self.total else np.ones(len(keeps)),
        }
        if self.overhead is not None:
            found["size_mb"] = (STORED_BYTES * (params + buffers) + self.overhead) / 1e6
        groups = np.arange(len(self.full))
        for name, table in self.tables.items():
            found[name] = table[groups, keeps].sum(1) / (self.tables_before[name] or 1)
        return found

    def of(self, keeps: np.ndarray) -> dict[str, float]:
        """When group i keeps `keeps[i]` channels."""
        return {name: float(value[0]) for name, value in self.many(keeps[None]).items()}


def _checked(name: str, table: Mapping[str, np.ndarray], groups: tuple[Group, ...]) -> dict[str, np.ndarray]:
    """The table's rows as floats, each of the length that its group asks for."""
    if name in (*SHARES, "size_mb"):
        raise SlimError(f"a cost table cannot be called {name}: that is computed already. Choose another name")
    sizes = {g.name: g.size for g in groups}
    if strange := table.keys() - sizes.keys():
        raise SlimError(f"the cost table {name} names a group that this detector does not have: {sorted(strange)[0]}")
    rows = {}
    for group, given in table.items():
        costs, n = np.asarray(given, float), sizes[group]
        if costs.shape != (n + 1,) or not np.isfinite(costs).all() or (np.diff(costs) < 0).any():
            raise SlimError(
                f"expected the cost table {name} to have {n + 1} finite numbers for {group}, the cost of keeping 0 to "
                f"{n} channels, none below the one before (np.maximum.accumulate makes it so), got {len(costs)}"
            )
        rows[group] = costs
    return rows


def _stacked(table: Mapping[str, np.ndarray], groups: tuple[Group, ...]) -> np.ndarray:
    """(groups, widest + 1): a row a group, zeros where the table says nothing."""
    rows = np.zeros((len(groups), max(g.size for g in groups) + 1))
    for row, group in zip(rows, groups, strict=True):
        if group.name in table:
            row[: group.size + 1] = table[group.name]
    return rows
