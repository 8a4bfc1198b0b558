"""The sweep: what it says of a grid, what it draws, and that its points survive kills and are the same anywhere."""

import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import psutil
import pytest
from drawn import Drawn, proportional
from hypothesis import given
from hypothesis import strategies as st
from test_importance import OWN
from tiny import PX, Answer, refused, run, run_alone

from yolo_slim import checkpoint
from yolo_slim.channels import trace
from yolo_slim.config import RECOVERIES, Config, Prune, check, read_config, words
from yolo_slim.errors import SlimError
from yolo_slim.importance import Evidence
from yolo_slim.pruning.choose import judge
from yolo_slim.report import draw, recommended, sentences, stays_within, sweep_markdown, sweep_plot
from yolo_slim.report.chart import apart
from yolo_slim.report.sweep_words import cliff, failures, falls_off
from yolo_slim.stages.sweep import _make, command, grid, section_of
from yolo_slim.sweeping import executors
from yolo_slim.sweeping.point import Point, make

pytest_plugins = ["tiny"]

# ---------------------------------------------------------------------------------------------------------------------
# What it says

Maps: TypeAlias = dict[tuple[str, str], dict[float, float | None]]
"""(criterion, recovery) -> share -> mAP50-95, or None where the point could not be made."""


def row(share: float, value: float, **more: Any) -> dict[str, Any]:
    ms = {"p10": 0.9, "median": 10 + 20 * share, "p90": 1.1}
    return {"error": None, "params": 2e6 * share, "flops": 2e9 * share, "map50": 1.2 * value, "map50_95": value} | {
        "latency_ms": ms,
        **more,
    }


def content(maps: Maps, original: float = 0.6, drop: float = 0.02) -> dict[str, Any]:
    """A sweep.json with these mAPs."""
    rows = []
    for (criterion, recovery), curve in maps.items():
        for share, value in curve.items():
            cell = {"criterion": criterion, "recovery": recovery, "flops_asked": share}
            made = row(share, value, flops_achieved=share - 0.004) if value is not None else {"error": "too far"}
            rows.append({**made, **cell})
    on = {"runtime": "PyTorch", "device": "cpu", "threads": 2, "batch": 1, "dtype": "float32", "imgsz": 64, "runs": 5}
    return {"name": "mine", "data": "mine.yaml", "split": "val", "imgsz": 64, "drop": drop, "measured_on": on} | {
        "original": row(1.0, original),
        "rows": rows,
        "command": "yolo-slim prune model=a.pt",
    }


L1, BN, CHANCE = ("l1", "recalibrate"), ("bn_scale", "recalibrate"), ("random", "recalibrate")
STEEP = {0.9: 0.59, 0.8: 0.585, 0.7: 0.51, 0.6: 0.32, 0.5: 0.30}


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        pytest.param({L1: STEEP}, ("l1", 0.8, True), id="the smallest within, not the best"),
        pytest.param({BN: {0.8: 0.582}, L1: STEEP}, ("l1", 0.8, True), id="the best criterion at that target"),
        pytest.param({BN: {0.7: 0.581}, L1: STEEP}, ("bn_scale", 0.7, True), id="a smaller one by a worse criterion"),
        pytest.param({CHANCE: {0.5: 0.6}, L1: STEEP}, ("l1", 0.8, True), id="chance is a control"),
        pytest.param({CHANCE: STEEP}, ("random", 0.8, True), id="chance alone"),
        pytest.param({L1: {0.5: 0.58}}, ("l1", 0.5, True), id="exactly the drop is allowed"),
        pytest.param({L1: {0.9: 0.5, 0.5: 0.57}}, ("l1", 0.5, False), id="none within: the least bad"),
        pytest.param({L1: {0.9: 0.61, 0.5: 0.62}}, ("l1", 0.5, True), id="better than the original"),
        pytest.param({L1: {0.9: 0.59, 0.5: None}}, ("l1", 0.9, True), id="a point that could not be made"),
        pytest.param({BN: {0.5: None}, L1: {0.9: 0.1}}, ("l1", 0.9, False), id="a curve without points"),
    ],
)
def test_recommended_is_the_smallest_target_that_keeps_the_accuracy(maps: Maps, expected: tuple) -> None:
    sweep = content(maps)
    best = recommended(sweep)
    assert (best["criterion"], best["flops_asked"], stays_within(sweep, best)) == expected


@pytest.mark.parametrize(
    ("maps", "between", "falls"),
    [
        pytest.param({L1: STEEP}, (0.7, 0.6), True, id="in the middle"),
        pytest.param({L1: {0.6: 0.32, 0.9: 0.59, 0.7: 0.51}}, (0.7, 0.6), True, id="whatever the order"),
        pytest.param({L1: {0.9: 0.2, 0.8: 0.1}}, (1.0, 0.9), True, id="at once: from the original"),
        pytest.param({L1: STEEP, BN: {0.9: 0.1, 0.8: 0.0}}, (0.7, 0.6), True, id="the best curve counts"),
        pytest.param({L1: STEEP, BN: {0.9: 0.6, 0.8: None}}, (0.7, 0.6), True, id="not a curve that ends early"),
        pytest.param({L1: STEEP, CHANCE: {0.9: 0.9, 0.8: 0.9}}, (0.7, 0.6), True, id="nor chance"),
        pytest.param({L1: {0.9: 0.59, 0.8: 0.575}}, (0.9, 0.8), False, id="little by little is no cliff"),
        pytest.param({L1: {0.9: 0.61, 0.8: 0.62}}, (1.0, 0.9), False, id="nothing lost at all"),
    ],
)
def test_the_cliff_is_the_largest_loss_between_neighbours(maps: Maps, between: tuple, falls: bool) -> None:
    sweep = content(maps)
    assert tuple(r.get("flops_asked", 1.0) for r in cliff(sweep)) == between
    assert falls_off(sweep) == falls


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        pytest.param(
            {L1: STEEP, CHANCE: {0.8: 0.1}},
            [
                "Recommended: FLOPs ×0.80 by l1 (recalibrate): mAP50-95 0.585 (−1.5 points), parameters ×0.80, "
                "latency ×0.87 (30.0 → 26.0 ms). It is the smallest target within 2 points of the original's mAP50-95 "
                "0.600, and nothing is trained yet.",
                "The cliff: by l1 (recalibrate), accuracy falls off between FLOPs ×0.70 (mAP50-95 0.510) and FLOPs "
                "×0.60 (0.320).",
                "Random selection reaches 0.100 at FLOPs ×0.80 with the same recovery, l1 0.585.",
            ],
            id="a good target",
        ),
        pytest.param(
            {L1: {0.9: 0.2, 0.8: 0.1}, CHANCE: {0.9: 0.195, 0.8: 0.0}},
            [
                "No criterion stays within 2 points of the original's mAP50-95 0.600. The least bad: FLOPs ×0.90 by l1 "
                "(recalibrate): mAP50-95 0.200 (−40.0 points), parameters ×0.90, latency ×0.93 (30.0 → 28.0 ms). "
                "Fine-tuning brings back most of what a cut loses: cut there, or further, fine-tune, and judge then.",
                "The cliff: by l1 (recalibrate), accuracy falls off between the original (mAP50-95 0.600) and FLOPs "
                "×0.90 (0.200).",
                "Random selection reaches 0.195 at FLOPs ×0.90 with the same recovery, l1 0.200: here the criterion "
                "decides next to nothing.",
            ],
            id="no good target, and chance as good",
        ),
        pytest.param(
            {L1: {0.9: 0.595}, CHANCE: {0.9: None}},
            [
                "Recommended: FLOPs ×0.90 by l1 (recalibrate): mAP50-95 0.595 (−0.5 points), parameters ×0.90, latency "
                "×0.93 (30.0 → 28.0 ms). It is the smallest target within 2 points of the original's mAP50-95 0.600, "
                "and nothing is trained yet.",
                "There is no cliff: by l1 (recalibrate), no target costs over 2 points more than the one before.",
            ],
            id="no cliff, and chance could not be measured",
        ),
        pytest.param(
            {L1: {0.9: 0.3}, CHANCE: {0.9: 0.59}},
            [
                "No criterion stays within 2 points of the original's mAP50-95 0.600. The least bad: FLOPs ×0.90 by l1 "
                "(recalibrate): mAP50-95 0.300 (−30.0 points), parameters ×0.90, latency ×0.93 (30.0 → 28.0 ms). "
                "Fine-tuning brings back most of what a cut loses: cut there, or further, fine-tune, and judge then.",
                "The cliff: by l1 (recalibrate), accuracy falls off between the original (mAP50-95 0.600) and FLOPs "
                "×0.90 (0.300).",
                "Random selection reaches 0.590 at FLOPs ×0.90 with the same recovery, l1 0.300, so no criterion is "
                "worth its name here: try others, or prune.scope=layer (chance cuts all layers alike).",
            ],
            id="chance is ahead",
        ),
    ],
)
def test_the_findings_in_words(maps: Maps, said: list[str]) -> None:
    assert sentences(content(maps)) == said


def test_nothing_is_recommended_where_there_is_nothing_to_lose() -> None:
    """Any cut stays within 2 points of an original that has fewer."""
    found = content({("l1", "none"): {0.8: 0.0, 0.5: 0.0}}, original=0.012)
    (said,) = sentences(found)
    assert said.startswith("No target can be recommended: the original's mAP50-95 0.012")
    page = sweep_markdown({**found, "name": "x", "command": "yolo-slim prune"})
    assert "```bash" not in page and said in page.replace("\\", "")


def test_the_page_has_a_line_a_point_and_tells_why_one_is_missing() -> None:
    sweep = content({L1: {0.9: 0.59, 0.5: None}})
    page = sweep_markdown(sweep, ["sweep.svg"])
    assert "| original | – | – | – | 2.00 | 0.720 | 0.600 | 30.0 |" in page
    assert "| **l1** | **recalibrate** | **×0.90** | **×0.896** | **1.80** | **0.708** | **0.590 (−1.0)** |" in page
    assert "| l1 | recalibrate | ×0.50 | – | – | – | – | – |" in page
    assert "- l1 (recalibrate) at FLOPs ×0.50: too far" in page
    assert "```bash\nyolo-slim prune model=a.pt\n```" in page and "![sweep](sweep.svg)" in page
    assert "val split of `mine.yaml`" in page and "2 threads, batch 1" in page
    assert {line.count("|") for line in page.splitlines() if line.startswith("|")} == {9}
    assert failures(content({L1: STEEP})) == []


# ---------------------------------------------------------------------------------------------------------------------
# What it draws

FAN = {
    (criterion, recovery): {share: 0.6 * share ** (5 * i + 2 * j + 3) for share in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)}
    for i, criterion in enumerate(["taylor", "group_fisher", "l1", "l2", "fpgm", "act_mean", "bn_scale", "random"])
    for j, recovery in enumerate(["reconstruct", "recalibrate", "none"])
}
PICTURES = {
    "usual": {L1: STEEP, CHANCE: {0.9: 0.3, 0.8: 0.1, 0.7: 0.0}},
    "all collapse to the same": {L1: {0.9: 0.01, 0.8: 0.0}, BN: {0.9: 0.0, 0.8: 0.0}, CHANCE: {0.9: 0.0, 0.8: 0.0}},
    "nothing is lost": {L1: {0.9: 0.6, 0.8: 0.6}, BN: {0.9: 0.6, 0.8: 0.6}, CHANCE: {0.9: 0.6, 0.8: 0.6}},
    "one point": {L1: {0.5: 0.3}},
    "24 curves": FAN,
}


@pytest.mark.parametrize("maps", PICTURES.values(), ids=PICTURES.keys())
def test_no_two_texts_of_the_picture_overlap(maps: Maps) -> None:
    found = Drawn(sweep_plot(content(maps)))
    texts = found.texts()
    for i, text in enumerate(texts):
        assert not [other for other in texts[:i] if text.overlaps(other)], text
        assert text.left >= 0 and text.right <= found.width and text.top >= 0 and text.bottom <= found.height, text


def test_each_curve_begins_at_the_original_and_is_named() -> None:
    sweep = content(PICTURES["usual"])
    found = Drawn(sweep_plot(sweep))
    for picture, measure in enumerate(("FLOPs", "latency")):
        curves = found.marks(picture)
        original = curves["original"][1]
        assert original.look == "" and original.tip == "original: mAP50-95 0.600, 30.0 ms"
        for (criterion, recovery), curve in PICTURES["usual"].items():
            first, *marks = curves[f"{criterion}, {recovery}"]
            assert (first.look, first.x, first.y) == ("quiet", original.x, original.y)
            assert [m.tip for m in marks] == [
                f"{criterion} ({recovery}), FLOPs ×{share - 0.004:.3f}: mAP50-95 {value:.3f}, {10 + 20 * share:.1f} ms"
                for share, value in curve.items()
            ]
            assert proportional([m.y for m in (first, *marks)], [0.6, *curve.values()])
            shares = [share - 0.004 if measure == "FLOPs" else share for share in curve]
            assert proportional([m.x for m in (first, *marks)], [1.0, *shares])
    assert found.said("note") == 2 * ["l1", "random", "original 0.600", "recommended"]
    assert found.said("title") == [
        "Shaded, the cliff of l1: ×0.70 (0.51) to ×0.60 (0.32)",
        "There, an image takes 26.0 ms instead of 30.0 (×0.87)",
    ]
    assert found.said("headline") == ["Recommended: FLOPs ×0.80 by l1 (recalibrate), −1.5 points of mAP50-95"]
    assert len({text.top for text in found.texts("tick") if text.words == "0.2"}) == 1, "one axis for both"


def test_the_ring_the_band_and_the_cliff_are_where_they_belong() -> None:
    found = Drawn(sweep_plot(content(PICTURES["usual"])))
    (ring,), curve = found.marks()["recommended"], found.marks()["l1, recalibrate"]
    assert (ring.look, ring.x, ring.y) == ("ring", curve[2].x, curve[2].y)
    bands = {
        look: polygon for g in found.pictures[0].iter("g") if (look := g.get("class")) for polygon in g.iter("polygon")
    }
    cliff, band = (
        [tuple(map(float, corner.split(","))) for corner in bands[f"series {look}"].get("points").split()]
        for look in ("whole faint", "ink dashed faint")
    )
    assert {x for x, _ in cliff} == {curve[3].x, curve[4].x}
    height = 0.02 * (curve[4].y - curve[0].y) / 0.28
    assert sorted({y for _, y in band}) == pytest.approx([curve[0].y, curve[0].y + height], abs=0.11)
    assert "series whole faint" not in {g.get("class") for g in found.pictures[1].iter("g")}


def test_a_criterion_has_a_colour_and_a_recovery_a_line() -> None:
    found = Drawn(sweep_plot(content(FAN)))
    looks = found.looks()
    assert {look for name, look in looks.items() if name.startswith("random")} == {
        "before",
        "before dashed",
        "before dotted",
    }
    assert [looks[f"l1, {recovery}"] for recovery in ("reconstruct", "recalibrate", "none")] == [
        "c1 dotted",
        "c1 dashed",
        "c1",
    ]
    colours = {name.partition(",")[0]: look.split()[0] for name, look in looks.items()}
    assert colours["act_mean"] in {"c0", "c7"}, "one that has none of its own takes what is free"
    alone = Drawn(sweep_plot(content({L1: STEEP, BN: STEEP}))).looks()
    assert (alone["l1, recalibrate"], alone["bn_scale, recalibrate"]) == (colours["l1"], colours["bn_scale"])
    legend = found.root.findall("g[polyline]")
    assert [g.get("class") for g in legend] == ["ink dotted", "ink dashed", "ink solid"]
    assert [text.words for text in found.texts("note")[:3]] == ["reconstruct", "recalibrate", "none"]


def test_nothing_is_recommended_where_the_original_has_nothing_to_lose(tmp_path: Path) -> None:
    sweep = content({L1: {0.9: 0.01, 0.8: 0.0}, CHANCE: {0.9: 0.0}}, original=0.015)
    found = Drawn(sweep_plot(sweep))
    said = "No target can be recommended: the original's mAP50-95 is 0.015, and 0.02 may be lost"
    assert " ".join(found.said("headline")) == said and sentences(sweep)[0].startswith("No target can be recommended")
    assert found.said("title") == ["mAP50-95 of each cut", "Latency of each cut"]
    words = " ".join(text.words for text in found.texts())
    assert "recommended" not in words.replace(said, "") and "least bad" not in words
    assert not {"recommended", "least bad"} & found.looks().keys(), "no point has a ring"
    assert "**" not in sweep_markdown(sweep), "no row stands out"


def test_what_does_not_fit_is_cut_short_or_goes_on_in_the_next_line() -> None:
    long = "a_module_of_mine.with:a_criterion_that_has_a_name"
    sweep = content({(long, "none"): STEEP, L1: STEEP, ('<b>&"', "none"): STEEP})
    sweep["measured_on"]["device"] = "cpu (Intel(R) Xeon(R) Platinum 8581C CPU @ 2.10GHz)"
    found = Drawn(sweep_plot(sweep))
    assert {f"{long[:23]}…", "l1", '<b>&"'} <= set(found.said("note"))
    assert " ".join(found.said("title")).startswith(f"Shaded, the cliff of {long}: ×0.70")
    assert " ".join(found.said("axis")[-2:]).endswith("Platinum 8581C CPU @ 2.10GHz), threads: 2)")
    assert all(text.left >= 0 and text.right <= found.width for text in found.texts())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_names_move_apart_in_order_and_within_the_axes(heights: list[float]) -> None:
    moved = np.array(apart(heights, 0.1, 0.0, 1.0))
    order = np.argsort(heights, kind="stable")
    assert (np.diff(moved[order]) >= 0.1 - 1e-9).all()
    assert (moved >= 0.05 - 1e-9).all() and (moved <= 0.95 + 1e-9).all()
    if len(heights) == 1 and 0.05 <= heights[0] <= 0.95:
        assert moved[0] == pytest.approx(heights[0])


def test_the_picture_is_not_empty(tmp_path: Path) -> None:
    (file,) = draw(content(PICTURES["usual"]), tmp_path, {"sweep.svg": sweep_plot})
    found = Drawn(file.read_text(encoding="utf-8"))
    assert found.width > 800 and found.height > 300
    assert len(list(found.root.iter("polyline"))) == 2 * 3 and len(list(found.root.iter("circle"))) > 2 * 10


# ---------------------------------------------------------------------------------------------------------------------
# What it asks for

USERS = [
    pytest.param({}, id="nothing set"),
    pytest.param({"prune": {"ratio": 0.4, "round_to": 4}}, id="a ratio gives way to the target"),
    pytest.param({"prune": {"target": {"params": 0.7, "flops": 0.3}}}, id="a second target stays"),
    pytest.param({"prune": {"layers": {"model.2.*": 0.1}, "exclude": ["model.0", "x y"]}}, id="patterns"),
    pytest.param({"prune": {"absorb": "beta", "recalibrate": 0}}, id="a recovery of the user's own"),
    pytest.param({"model": "a b.pt", "device": "0", "name": "x.1", "seed": 3}, id="words that need quotes"),
    pytest.param({"sparse_train": {"epochs": 7}, "finetune": {"train": {"lr0": 1e-3}}}, id="other stages"),
    pytest.param({"finetune": {"distill": {}}}, id="a section that is on, at its defaults"),
]


def config_of(settings: dict[str, Any]) -> Config:
    return check({"model": "a.pt", "data": "a.yaml", **settings})


@pytest.mark.parametrize("settings", USERS)
def test_the_command_it_prints_gives_the_point_again(settings: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(settings)
    points = grid(config, tmp_path / "original.pt")[1:]
    assert len({point.key for point in points}) == len(points) == 18
    for point in points[::5]:
        for stage in ("prune", "run"):
            program, named, *typed = shlex.split(command(point.config, stage))
            again = read_config(None, typed)
            assert (program, named, again.prune) == ("yolo-slim", stage, point.config.prune)
            assert again.sparse_train.epochs == 0, "the sweep was made on the original"
            general = ("model", "data", "imgsz", "device", "seed", "original")
            assert [getattr(again, key) for key in general] == [getattr(config, key) for key in general]
            assert again.name == f"{config.name}-x{point.cell['flops_asked']:g}", "this run is left as it is"
        assert again.finetune == config.finetune


def test_the_command_it_prints_replaces_no_run(tmp_path: Path) -> None:
    config = config_of({"name": "mine", "runs": str(tmp_path), "overwrite": True, "prune": {"target": {"flops": 0.5}}})
    names = []
    for _ in range(3):
        _, _, *typed = shlex.split(command(config, "run"))
        again = read_config(None, typed)
        assert not again.overwrite
        names.append(again.name)
        again.folder.mkdir()
    assert names == ["mine-x0.5", "mine-x0.5-2", "mine-x0.5-3"]


@pytest.mark.parametrize("settings", USERS)
def test_settings_as_words_are_the_same_settings(settings: dict[str, Any]) -> None:
    config = config_of(settings)
    assert read_config(None, words(config.model_dump(exclude_defaults=True))) == config


@pytest.mark.parametrize(
    ("recovery", "absorb", "recalibrate"),
    [
        pytest.param("none", "none", 0, id="none"),
        pytest.param("absorb", "measured", 0, id="absorb"),
        pytest.param("recalibrate", "measured", 64, id="recalibrate: as many images as the user says"),
    ],
)
def test_a_recovery_replaces_what_the_user_had(recovery: str, absorb: str, recalibrate: int) -> None:
    mine = Prune(absorb="beta", recalibrate=64, min_keep=0.3, ratio=0.5)
    found = section_of(mine, "l1", 0.7, recovery)
    assert (found.absorb, found.recalibrate, found.min_keep) == (absorb, recalibrate, 0.3)
    assert (found.criterion, found.ratio, found.target.flops) == ("l1", None, 0.7)
    off = section_of(Prune(recalibrate=0), "l1", 0.7, "recalibrate")
    assert off.recalibrate == Prune().recalibrate, "asked for by name, so it is done"


def test_every_recovery_is_made_of_settings_of_prune() -> None:
    for name in RECOVERIES:
        Prune.model_validate(section_of(Prune(), "l1", 0.7, name).model_dump())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        pytest.param(["data=null"], ["val split", "data="], id="no data"),
        pytest.param(["sweep.criteria=[l1,l7]"], ["sweep.criteria", "l7", "bn_scale"], id="an unknown criterion"),
        pytest.param(["sweep.recovery=[magic]"], ["sweep.recovery", "magic"], id="an unknown recovery"),
        pytest.param(["sweep.flops=[1.5]"], ["sweep.flops", "1.5"], id="a share above one"),
        pytest.param(["sweep.flops=[]"], ["sweep.flops"], id="an empty grid"),
        pytest.param(["device=7"], ["device=7"], id="a device that is not there"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    original: Path, data: Path, tmp_path: Path, asked: list[str], said: list[str]
) -> None:
    refused(run(*typed(original, data, tmp_path), *asked), *said)
    assert not (tmp_path / "runs").exists()


def test_without_ray_it_says_how_to_get_it(
    original: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    answer = run(*typed(original, data, tmp_path), "sweep.executor=ray")
    refused(answer, "pip install yolo-slim[ray]", "sweep.executor=processes")
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Points


def typed(model: Path, data: Path, folder: Path) -> list[str]:
    """A sweep of two criteria and two targets."""
    settings = {
        "model": model,
        "data": data,
        "imgsz": PX,
        "runs": folder / "runs",
        "sweep.drop": 1e-4,  # the tiny detector has little more to lose
        "name": "swept",
        "report.latency_runs": 2,
        "prune.round_to": 4,
        "prune.min_channels": 4,
        "prune.recalibrate": 8,
        "sweep.criteria": "[l1,random]",
        "sweep.flops": "[0.8,0.6]",
    }
    return ["sweep", *(f"{key}={value}" for key, value in settings.items())]


def test_a_criterion_is_asked_once(original: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config(*more: str) -> Config:
        return read_config(None, [*typed(original, data, tmp_path)[1:], "sweep.recovery=[none]", *more])

    asked: list[str] = []
    monkeypatch.setattr(
        "yolo_slim.sweeping.point.judge", lambda *given: asked.append(given[2].criterion) or judge(*given)
    )
    points = grid(config(), original)[1:]
    points[0].folder.mkdir(parents=True)
    assert [make(point)[1] for point in points] == [None] * 4
    assert asked == ["l1", "random"]
    detector = checkpoint.load(original)
    by_hand = judge(detector, trace(detector, PX), points[0].config.prune, Evidence())
    with np.load(points[0].folder / "scores" / "l1.npz") as kept:
        assert kept.keys() == by_hand.keys() and all(np.array_equal(kept[name], by_hand[name]) for name in by_hand)
    again = grid(config("prune.bn_fold=true"), original)[1]
    assert make(again)[1] is None and asked == ["l1", "random", "l1"], "scores of other settings are others"


def test_a_criterion_of_ones_own_reaches_the_processes(
    original: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "swept_criterion.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    more = ["sweep.criteria=[swept_criterion:shift]", "sweep.flops=[0.8]", "sweep.recovery=[none]", "sweep.workers=1"]
    asked = [*typed(original, data, tmp_path), *more]
    try:
        answer = run(*asked)
        assert answer.code == 0, answer
        config = read_config(None, asked[1:])
        point = grid(config, config.folder / "original" / "original.pt")[1]
        assert point.key == "swept_criterion.shift-x0.8-none" and point.finished()
        assert (point.folder / "scores" / "swept_criterion.shift.npz").is_file()
        (tmp_path / "swept_criterion.py").write_text(f"{OWN}# otherwise\n")
        assert not point.finished(), "another version is another criterion"
    finally:
        sys.modules.pop("swept_criterion", None)


def test_a_device_that_a_node_has_not_is_told_of(original: Path, data: Path, tmp_path: Path) -> None:
    config = read_config(None, typed(original, data, tmp_path)[1:])
    point = grid(config.model_copy(update={"device": "7"}), original)[1]
    key, why = make(point)
    assert key == point.key and "device=7 is not there" in why


KEYS = {f"{criterion}-x{share}-reconstruct" for criterion in ("l1", "random") for share in (0.8, 0.6)}
MANY = "sweep.flops=[0.9,0.8,0.7,0.6]"
"""On a busy machine a signal may come seconds late: there are points left then."""
PATIENCE = 600.0  # seconds until a moment that does not come is given up


class Sweep:
    """The same sweep in a process group of its own, again and again."""

    def __init__(self, model: Path, data: Path, folder: Path) -> None:
        self.words, self.folder = [*typed(model, data, folder), "sweep.workers=1"], folder
        self.points = folder / "runs" / "swept" / "sweep" / "points"

    def kept(self) -> dict[str, int]:
        """Key of each finished point -> when its file was written, in ns."""
        return {p.stem: p.stat().st_mtime_ns for p in self.points.glob("[!.]*.json")}

    def end_when(self, moment: Callable[[], bool], sent: signal.Signals) -> tuple[int, str, list[psutil.Process]]:
        """Start it, send a signal as soon as `moment` has come: exit code, output, processes it leaves behind."""
        log = self.folder / f"{sent.name}.txt"
        environment = {**os.environ, "YOLO_OFFLINE": "true", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "yolo_slim.cli", *self.words, MANY]
        with log.open("w") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + PATIENCE
        family: list[psutil.Process] = []
        try:
            while not moment():
                assert process.poll() is None, f"it ended before that moment:\n{log.read_text()[-3000:]}"
                assert time.monotonic() < deadline, f"that moment did not come:\n{log.read_text()[-3000:]}"
                time.sleep(0.01)
            family = psutil.Process(process.pid).children(recursive=True)
            # Ctrl-C reaches every process of the terminal, a kill only the one that is named.
            os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)
            code = process.wait(PATIENCE)
        finally:
            process.kill()
        _, left = psutil.wait_procs(family, timeout=30)
        assert family, "no worker was there to be left behind"
        return code, log.read_text(), left


def test_layers_are_timed_once_and_before_any_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    stage = "yolo_slim.stages.sweep"
    monkeypatch.setattr(f"{stage}.findings", lambda config, detector, **_: told.append(f"table of {detector}"))
    monkeypatch.setattr(f"{stage}.checkpoint.load", lambda path: path.name)
    monkeypatch.setattr(f"{stage}.Batches", lambda *_, **__: SimpleNamespace(items=[]))
    monkeypatch.setattr(f"{stage}.executor", lambda *_: None)
    monkeypatch.setattr(f"{stage}.make_all", lambda points, _: (told.append(p.key) or (p.key, None) for p in points))
    config = read_config(None, ["model=x.pt", "data=x.yaml", "sweep.flops=[0.5]", "sweep.criteria=[l1]"])
    monkeypatch.setattr(Point, "finished", lambda point: not point.cell)
    _make(config, grid(config, tmp_path / "x.pt"), tmp_path)
    assert told == ["table of x.pt", "l1-x0.5-reconstruct"]


@pytest.fixture(scope="module")
def story(original: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep that is interrupted, killed, and then run to its end: fewer targets, and one beyond reach."""
    sweep = Sweep(original, data, tmp_path_factory.mktemp("sweep"))
    told: dict[str, Any] = {"sweep": sweep}
    told["interrupted"] = sweep.end_when(lambda: len(sweep.kept()) >= 2, signal.SIGINT)
    told["after the first"] = sweep.kept()
    told["killed"] = sweep.end_when(lambda: len(sweep.kept()) > len(told["after the first"]), signal.SIGKILL)
    told["after the second"] = sweep.kept()
    told["end"] = run(*sweep.words, "sweep.flops=[0.8,0.6,0.01]", "sweep.workers=2")
    return told


def test_an_interrupt_ends_it_cleanly(story: dict[str, Any]) -> None:
    code, output, left = story["interrupted"]
    assert code == 130 and left == []
    assert "the same command goes on from here" in output and "Traceback" not in output


def test_a_kill_leaves_no_process_behind(story: dict[str, Any]) -> None:
    code, _, left = story["killed"]
    assert code == -signal.SIGKILL and left == []


def test_finished_points_are_kept_over_a_kill(story: dict[str, Any]) -> None:
    first, second, end = story["after the first"], story["after the second"], story["sweep"].kept()
    assert len(first) < len(second) < 9, "neither had come to its end"
    assert first.items() <= second.items() <= end.items(), "none was made again"
    asked = {"original", *KEYS}
    assert f"{len(second.keys() & asked)} of 7 points were made before" in story["end"].out
    assert end.keys() == second.keys() | asked


def test_a_point_that_cannot_be_made_is_a_row_with_its_reason(story: dict[str, Any]) -> None:
    answer: Answer = story["end"]
    assert answer.code == 0, answer
    folder = story["sweep"].points.parent
    rows = json.loads((folder / "sweep.json").read_text())["rows"]
    assert [(r["criterion"], r["flops_asked"]) for r in rows] == [
        (criterion, share) for criterion in ("l1", "random") for share in (0.8, 0.6, 0.01)
    ]
    assert [r["error"] is None for r in rows] == [True, True, False] * 2
    assert "the target cannot be met" in rows[2]["error"]
    assert "l1 (reconstruct) at FLOPs ×0.01: the target cannot be met" in answer.out
    for r in (r for r in rows if r["error"] is None):
        assert r["flops_asked"] - 0.15 < r["flops_achieved"] <= r["flops_asked"]
        assert 0 <= r["map50_95"] <= r["map50"] <= 1
        assert r["split"] == "val"
        assert 0 < r["latency_ms"]["p10"] <= r["latency_ms"]["median"]


def test_nothing_half_written_is_left(story: dict[str, Any]) -> None:
    folder = story["sweep"].points.parent
    assert [p.name for p in folder.rglob("*") if ".part" in p.name] == []
    assert {p.stem for p in folder.glob("points/*.pt")} == story["sweep"].kept().keys() - {"original"}


def test_it_is_not_done_twice_and_speaks_again(story: dict[str, Any]) -> None:
    again = run(*story["sweep"].words, "sweep.flops=[0.8,0.6,0.01]")
    assert again.code == 0 and "sweep: done before" in again.out
    findings = [line for line in story["end"].out.splitlines() if "points of the original's" in line]
    assert findings and findings[0] in again.out


def test_other_settings_or_weights_are_other_points(story: dict[str, Any], original: Path) -> None:
    config = read_config(None, story["sweep"].words[1:])
    weights = config.folder / "original" / "original.pt"
    assert all(point.finished() for point in grid(config, weights))
    other = config.model_copy(update={"prune": config.prune.model_copy(update={"round_to": 8})})
    assert [bool(point.finished()) for point in grid(other, weights)] == [True, False, False, False, False]
    assert [point.finished() for point in grid(config, original)] == [None] * 5


def test_the_recommended_command_makes_the_recommended_point(story: dict[str, Any]) -> None:
    sweep = json.loads((story["sweep"].points.parent / "sweep.json").read_text())
    assert sweep["command"] in story["end"].out
    typed = shlex.split(sweep["command"])
    answer = run("prune", *typed[2:])
    assert answer.code == 0, answer
    folder = read_config(None, typed[2:]).folder
    assert (
        folder.parent == story["sweep"].points.parents[2] and not (story["sweep"].points.parents[1] / "pruned").exists()
    )
    record = json.loads((folder / "pruned" / "stage.json").read_text())
    same = ("params", "macs")
    assert [record["metrics"][key] for key in same] == [sweep["recommended"][key] for key in same]


def test_a_sweep_without_a_point_is_refused(original: Path, data: Path, tmp_path: Path) -> None:
    asked = (*typed(original, data, tmp_path), "sweep.criteria=[l1]", "sweep.workers=1", "prune.exclude=[model.99]")
    refused(run(*asked), "no point", "model.99 matches no layer")
    assert not (tmp_path / "runs" / "swept" / "sweep" / "sweep.json").exists()


def test_ray_makes_the_same_points_in_two_processes(
    story: dict[str, Any], original: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install yolo-slim[ray]")
    asked = (*typed(original, data, tmp_path), "sweep.executor=ray", "sweep.workers=2", "sweep.criteria=[l1]")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # beside other tests it would get nothing
    answer = run_alone(*asked, cwd=tmp_path, patience=PATIENCE)
    assert answer.code == 0, answer
    here, there = (
        {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}
        for folder in (story["sweep"].points, tmp_path / "runs" / "swept" / "sweep" / "points")
    )
    made = {key for key in KEYS if key.startswith("l1-")}
    assert there.keys() == {"original", *made}
    for key, point in there.items():
        for measure in ("params", "macs", "map50", "map50_95"):
            assert point["metrics"][measure] == pytest.approx(here[key]["metrics"][measure], abs=1e-3), key
    assert len({there[key]["details"]["process"] for key in made}) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Executors


def pretend(point: str) -> tuple[str, None]:
    """Stands for making a point."""
    if point == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if point == "crash":
        raise ZeroDivisionError("a mistake of ours")
    return point, None


def test_a_crash_does_not_stop_the_others_and_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(executors, "work", pretend)
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        for key, _ in executors.make_all(["a", "crash", "b"], executors.in_processes(1, tmp_path / "log")):
            told.append(key)
    assert sorted(told) == ["a", "b"]


def test_a_process_that_is_killed_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "work", pretend)
    with pytest.raises(SlimError, match=r"was killed.*sweep\.workers=1"):
        list(executors.make_all(["die", "a"], executors.in_processes(1, tmp_path / "log")))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        pytest.param("10.0.0.1:6379", r"10\.0\.0\.1:6379.*ray status.*token", id="a cluster that does not answer"),
        pytest.param(None, r"this machine.*sweep\.executor=processes", id="one that does not come up here"),
    ],
)
def test_ray_that_cannot_be_used_is_told_of(address: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    class Ray(ModuleType):
        def is_initialized(self) -> bool:
            return False

        def init(self, **settings: object) -> None:
            assert settings["address"] == (address or "local")
            raise RuntimeError("timed out.")

    with (
        pytest.raises(SlimError, match=rf"cannot use Ray at {said}"),
        executors.on_ray(Ray("ray"), 2, 1, address, "cpu"),
    ):
        pass


class Cluster(ModuleType):
    """Stands for Ray with these nodes; notes what a task asks for and is given."""

    def __init__(self, *nodes: dict[str, float], alive: bool = True) -> None:
        super().__init__("ray")
        self.up = [{"Alive": alive, "Resources": node} for node in nodes]
        self.asked: dict[str, int] = {}
        self.given: list[Point] = []

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return self.up

    def remote(self, **asked: int) -> Callable[[Callable], Any]:
        self.asked = asked
        return lambda function: SimpleNamespace(remote=self.take)

    def take(self, point: Point) -> Any:
        self.given.append(point)
        return SimpleNamespace(future=lambda: None)

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_accelerator_ids=lambda: {"GPU": ["3"], "TPU": []})


@pytest.mark.parametrize(
    ("nodes", "device", "cpus", "gpus"),
    [
        pytest.param([{"CPU": 16.0}], "cpu", 8, 0, id="room for all threads"),
        pytest.param([{"CPU": 16.0}, {"CPU": 2.0}], "cpu", 2, 0, id="no more than the smallest node has"),
        pytest.param([{"memory": 1e9}, {"CPU": 16.0}], "cpu", 8, 0, id="a head that takes no tasks"),
        pytest.param([{"CPU": 2.0}, {"CPU": 6.0, "GPU": 4.0}], "0", 6, 1, id="a GPU: of the nodes that have one"),
        pytest.param([{"CPU": 4.0}], "mps", 4, 0, id="Ray knows no Apple GPUs"),
    ],
)
def test_a_task_asks_ray_for_what_the_nodes_have(
    nodes: list[dict[str, float]], device: str, cpus: int, gpus: int, tmp_path: Path
) -> None:
    ray, point = Cluster(*nodes), grid(config_of({}), tmp_path / "original.pt")[1]
    with executors.on_ray(ray, 2, 8, None, device) as start:
        start([point])
    assert ray.asked == {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
    assert [given.threads for given in ray.given] == [cpus]


@pytest.mark.parametrize(
    ("ray", "device", "said"),
    [
        pytest.param(Cluster({"CPU": 8.0}), "0", "a CPU and a GPU.*device=cpu", id="no GPU anywhere"),
        pytest.param(
            Cluster({"CPU": 8.0}, alive=False), "cpu", "nodes with a CPU, and Ray knows of none", id="all dead"
        ),
    ],
)
def test_what_no_node_has_is_told_at_once(ray: Cluster, device: str, said: str) -> None:
    with pytest.raises(SlimError, match=said), executors.on_ray(ray, 2, 8, None, device):
        pass


def test_a_task_runs_on_the_gpu_that_ray_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", Cluster())
    monkeypatch.setattr(executors, "work", lambda point: point.config.device)
    assert executors._on_node(grid(config_of({"device": "0"}), tmp_path / "original.pt")[1]) == "3"
