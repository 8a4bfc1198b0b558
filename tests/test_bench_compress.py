"""The benchmark of compressions: its rows, and how strong a method is set that training alone carries out."""

from __future__ import annotations

import pytest
from tiny import PX, script

from yolo_slim.compress import METHODS

pytest_plugins = ["tiny"]

bench = script("bench_compress")


def test_every_method_has_rows_and_every_row_can_be_set() -> None:
    args = bench.read_arguments([])
    ways = [case.way for case in bench.cases(args)]
    assert (
        len({*ways})
        == len(bench.BY_STRENGTH)
        + len(bench.IN_TRAINING)
        + len(bench.BY_STEPS)
        + len(bench.AS_THEY_ARE)
        + len(bench.CHAINS)
        + 2
    )
    every = [make(0.5) for make in (*bench.BY_STRENGTH.values(), *bench.CHAINS.values())]
    every += [make(0.5) for _, make in bench.IN_TRAINING.values()] + [*bench.AS_THEY_ARE.values()]
    every += [entries for steps in bench.BY_STEPS.values() for entries in steps]
    named = set()
    for entries in every:
        for entry in entries:
            ((name, options),) = entry.items()
            if name != "prune":
                METHODS[name](**options)
                named.add(name)
    assert named == METHODS.keys() - {"grow"}, "which makes a detector larger"


@pytest.mark.parametrize("way", bench.IN_TRAINING)
def test_what_training_carries_out_is_set_as_its_like_has_to_be(original, data, monkeypatch, way) -> None:
    """Untrained it would take out nothing, and the search would find no strength that fits."""
    monkeypatch.setattr(bench, "HALVINGS", 2)
    args = bench.read_arguments(["--data", str(data), "--model", str(original), "--imgsz", str(PX)])
    like, _ = bench.IN_TRAINING[way]
    one, other = (bench.found(bench.Case(args, each, "bytes", 0.8, 0), original) for each in (like, way))
    (one,), (other,) = one, other
    assert one["weights"]["sparsity"] == other["weights"]["sparsity"] > 0
    assert METHODS["weights"](**other["weights"]).gradual and not METHODS["weights"](**one["weights"]).gradual
