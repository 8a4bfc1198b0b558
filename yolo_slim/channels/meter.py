"""Every cost that a budget may be set for, of any plan, under the name and in the unit of the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from yolo_slim.channels.costs import STORED_BYTES, Costs
from yolo_slim.channels.groups import Group, Trace
from yolo_slim.channels.layer_table import LayerTable
from yolo_slim.errors import SlimError

COMPUTED = ("flops", "params", "channels", "size_mb", "latency", "latency_ms")
"""Names that a caller's own table cannot have."""


class Meter:
    """Every cost that a target may name, under the target's name and in its unit.

    `flops`, `params`, `channels`, `latency` and the caller's own tables as shares of the whole detector's; `size_mb`,
    the file of a checkpoint, in megabytes (1e6 bytes); `latency_ms`, in milliseconds.

    Args:
        trace: of the detector.
        counted: bool per group, those whose channels `channels` counts.
        tables: name -> {group name: (n + 1,) cost of keeping 0..n of its channels}, added up over groups; a group
            that is not named costs nothing. May not fall with width.
        overhead: bytes of a checkpoint beside its numbers; None: `size_mb` is not told.
        whole: trace of the detector that shares refer to, where residual branches were dropped from it since.
        total: channels that `channels` is a share of; None: those counted.
        layers: what every convolution takes, in ms; None: neither `latency` nor `latency_ms` is told.

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
        layers: LayerTable | None = None,
    ) -> None:
        self.costs, self.counted, self.overhead, self.layers = Costs(trace), counted, overhead, layers
        self.full = self.costs.full
        self.total = int(self.full[counted].sum()) if total is None else total
        first = Costs(whole) if whole else self.costs
        self.before = first.of(first.full)
        self.ms_before = float(layers.many(first, first.full[None])[0]) if layers else 0.0
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
        if self.layers is not None:
            found["latency_ms"] = self.layers.many(self.costs, keeps)
            found["latency"] = found["latency_ms"] / self.ms_before
        groups = np.arange(len(self.full))
        for name, table in self.tables.items():
            found[name] = table[groups, keeps].sum(1) / (self.tables_before[name] or 1)
        return found

    def of(self, keeps: np.ndarray) -> dict[str, float]:
        """When group i keeps `keeps[i]` channels."""
        return {name: float(value[0]) for name, value in self.many(keeps[None]).items()}


def _checked(name: str, table: Mapping[str, np.ndarray], groups: tuple[Group, ...]) -> dict[str, np.ndarray]:
    """The table's rows as floats, each of the length that its group asks for."""
    if not isinstance(table, Mapping):
        raise SlimError(f"expected the cost table {name} to be group name -> costs, got a {type(table).__name__}")
    if name in COMPUTED:
        raise SlimError(f"a cost table cannot be called {name}: that is computed already. Choose another name")
    sizes = {g.name: g.size for g in groups}
    if strange := table.keys() - sizes.keys():
        first = min(map(str, strange))
        raise SlimError(f"the cost table {name} names a group that this detector does not have: {first}")
    rows = {}
    for group, given in table.items():
        costs, n = _numbers(given), sizes[group]
        if wrong := _wrong_with(costs, n):
            raise SlimError(
                f"expected the cost table {name} to have {n + 1} finite numbers for {group}, the cost of keeping 0 to "
                f"{n} channels, none below the one before or below 0 (np.maximum.accumulate makes it so), got {wrong}"
            )
        rows[group] = costs
    if not sum(row[-1] for row in rows.values()):
        raise SlimError(f"expected the cost table {name} to say what channels cost, but all that it says is 0")
    return rows


def _numbers(given: Any) -> np.ndarray:
    try:
        return np.asarray(given, float)
    except (TypeError, ValueError):  # text, ragged lists
        return np.asarray(given, object)


def _wrong_with(costs: np.ndarray, n: int) -> str:
    """Of a row for a group of n channels, for a message; nothing is: ""."""
    if costs.dtype == object:
        return f"something else, {costs.tolist()!r:.60}"
    if costs.shape != (n + 1,):
        return f"{len(costs)}" if costs.ndim == 1 else f"the shape {costs.shape}"
    where = np.flatnonzero(~np.isfinite(costs) | (costs < 0) | (np.diff(costs, prepend=costs[0]) < 0))
    return f"{costs[where[0]]:g} for {where[0]}" if len(where) else ""


def _stacked(table: Mapping[str, np.ndarray], groups: tuple[Group, ...]) -> np.ndarray:
    """(groups, widest + 1): a row a group, zeros where the table says nothing."""
    rows = np.zeros((len(groups), max(g.size for g in groups) + 1))
    for row, group in zip(rows, groups, strict=True):
        if group.name in table:
            row[: group.size + 1] = table[group.name]
    return rows
