"""What is said of differences: whether these images can tell, whether scores have moved; each case with its reason."""

from __future__ import annotations

import copy
import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import Drawn
from test_sweep import L1, content

from yolo_slim.report import (
    advice,
    changes,
    markdown,
    page,
    recommended,
    sentences,
    stays_within,
    summary,
    sweep_markdown,
    sweep_plot,
    verdict,
)
from yolo_slim.report.compared import by_class, classes
from yolo_slim.report.doubt import difference, sure, undecided
from yolo_slim.report.numbers import plain, table
from yolo_slim.report.operating import compared_at, moved, warnings, worth
from yolo_slim.report.sweep_words import falls_off, in_noise
from yolo_slim.report.verdict import headline
from yolo_slim.stages.export import complaints

pytest_plugins = ["handmade"]

DRAWS = np.linspace(-1, 1, 201)
"""Where each draw lies, from the worst to the best."""


def known(value: float, spread: float = 0.0, images: int = 72) -> dict[str, Any]:
    """A row whose mAP50-95 lies within ±0.95 spread on 95 % of the draws; two such are paired by their order."""
    drawn = (value + spread * DRAWS).tolist()
    low, high = value - 0.95 * spread, value + 0.95 * spread
    own = {"map50_95": value, "map50_95_low": low, "map50_95_high": high, "replicates": drawn}
    return {**own, "images": images, "labelled_images": images, "labels": 500, "split": "val"}


def few(value: float) -> dict[str, Any]:
    """A row measured on too few images to draw from."""
    return {**known(value, images=4), "map50_95_low": None, "map50_95_high": None, "replicates": []}


ON = {"precision_at_25": 0.9, "recall_at_25": 0.85, "f1_at_25": 0.87, "best_confidence": 0.4, "precision_best": 0.92}
ON |= {"recall_best": 0.86, "f1_best": 0.89, "blind_images": 0, "labelled_images": 20, "median_best_score": 0.79}
BLIND = {"precision_at_25": 1.0, "recall_at_25": 0.05, "f1_at_25": 0.1, "best_confidence": 0.15, "blind_images": 17}
BLIND |= {"median_best_score": 0.17}


# ---------------------------------------------------------------------------------------------------------------------
# Differences


def test_a_difference_is_of_pairs_and_holds_the_value() -> None:
    assert difference(known(0.58, 0.05), known(0.6, 0.05)) == pytest.approx((-0.02, -0.02)), "each draw says the same"
    assert difference(known(0.58, 0.05), known(0.6, 0.03)) == pytest.approx((-0.039, -0.001))
    shifted = {**known(0.58, 0.01), "map50_95": 0.7}
    assert difference(shifted, known(0.6, 0.01))[1] == pytest.approx(0.1), "the value lies within, whatever the draws"


@pytest.mark.parametrize(
    ("row", "base"),
    [
        pytest.param(known(0.5, images=71), known(0.5), id="other images"),
        pytest.param({**known(0.5), "labels": 499}, known(0.5), id="other labels"),
        pytest.param({**known(0.5), "replicates": [0.5]}, known(0.5), id="fewer draws"),
        pytest.param(few(0.5), few(0.5), id="too few images"),
        pytest.param({"map50_95": 0.5}, known(0.5), id="a row of an older version"),
        pytest.param({"map50_95": None, "images": 72, "labels": 0}, known(0.5), id="no labels"),
    ],
)
def test_where_draws_are_not_shared_no_difference_is_told(row, base) -> None:
    assert difference(row, base) is None


@pytest.mark.parametrize(
    ("row", "said", "unsure"),
    [
        pytest.param(known(0.59, 0.0), "; 95 %: −1.0 to −1.0, 72 images", False, id="sure"),
        pytest.param(
            known(0.59, 0.02), "; 95 %: −2.9 to +0.9, 72 images", True, id="the bound of 2 points lies within"
        ),
        pytest.param(known(0.66, 0.04), "; 95 %: +2.2 to +9.8, 72 images", False, id="wide, and far from the bound"),
        pytest.param(few(0.59), "; 4 images: too few to say how sure", True, id="four images"),
        pytest.param({"map50_95": 0.59}, "", False, id="not known on how many"),
    ],
)
def test_how_sure_a_difference_is(row, said, unsure) -> None:
    base = {**known(0.6), "images": row.get("images", 72)}
    assert sure(row, base) == said
    assert undecided(row, base, -0.02) == unsure


# ---------------------------------------------------------------------------------------------------------------------
# The sweep


def sweep(curve: dict[float, dict[str, Any]], original: dict[str, Any], drop: float = 0.02) -> dict[str, Any]:
    """A sweep.json whose rows are so sure."""
    found = content({L1: {share: row["map50_95"] for share, row in curve.items()}}, original["map50_95"], drop)
    found["original"] |= original
    for row, of in zip(found["rows"], curve.values(), strict=True):
        row |= of
    return found


@pytest.mark.parametrize(
    ("curve", "original", "falls", "said"),
    [
        pytest.param({0.9: known(0.55)}, known(0.6), True, "The cliff: ", id="below the original, and surely so"),
        pytest.param({0.9: known(0.70), 0.8: known(0.62)}, known(0.6), False, "no cliff", id="still above it"),
        pytest.param({0.9: known(0.70), 0.8: known(0.59)}, known(0.6), False, "no cliff", id="one point below it"),
        pytest.param({0.9: known(0.70), 0.8: known(0.5)}, known(0.6), True, "The cliff: ", id="to far below"),
        pytest.param({0.9: known(0.57, 0.04)}, known(0.6), False, "noise (−3.0 points; 95 %: −6.8 to +0.8", id="noise"),
        pytest.param({0.9: few(0.1)}, few(0.6), True, "(0.100; 4 images: too few to say how sure)", id="four images"),
        pytest.param({0.9: {"map50_95": 0.5}}, {"map50_95": 0.6}, True, "The cliff: ", id="an older sweep.json"),
    ],
)  # fmt: skip
def test_a_cliff_is_a_fall_below_the_original_that_the_images_can_tell(curve, original, falls, said) -> None:
    found = sweep(curve, original)
    assert falls_off(found) == falls
    sentence = next(line for line in sentences(found) if "cliff" in line.lower())
    assert said in sentence
    assert ("The cliff: " in sentence) == falls
    title = Drawn(sweep_plot(found)).said("title")[0]
    assert title.startswith("No cliff") == (not falls) and ("noise" in title) == in_noise(found)


@pytest.mark.parametrize(
    ("row", "within", "said"),
    [
        pytest.param(known(0.59), True, None, id="surely within"),
        pytest.param(known(0.59, 0.03), True, "On 72 images it cannot be told", id="perhaps"),
        pytest.param(known(0.57, 0.03), False, "On 72 images it cannot be told", id="or not"),
        pytest.param(known(0.5, 0.01), False, None, id="surely beyond"),
        pytest.param(few(0.59), True, "On 4 images it cannot be told", id="four images"),
    ],
)  # fmt: skip
def test_a_recommendation_says_where_the_images_are_too_few_for_it(row, within, said) -> None:
    found = sweep({0.5: row}, {**known(0.6), "images": row["images"]})
    assert stays_within(found, recommended(found)) == within, "the number decides, the words say how sure"
    first = sentences(found)[0]
    assert ("cannot be told" in first) == (said is not None) and (said or "") in first


def test_a_criterion_ahead_of_chance_by_the_choice_of_images_only() -> None:
    found = sweep({0.5: known(0.59, 0.05)}, known(0.6))
    found["rows"].append({**found["rows"][0], "criterion": "random", **known(0.57)})
    assert "l1 0.590, which is within the noise of 72 images." in sentences(found)[-1]


def test_the_table_of_a_sweep_says_how_sure_each_point_is() -> None:
    text = sweep_markdown(sweep({0.5: {**known(0.59, 0.06), **ON}}, {**known(0.6, 0.02), **ON}))
    assert (
        "| 0.600 ±0.019 |" in text and "**0.590 (−1.0 ±3.8)**" in text and "72 images, 20 of them with objects" in text
    )
    assert "| l1 (recalibrate) FLOPs ×0.50 | 0.900 | 0.850 | 0.870 | 0.40 |" in text


# ---------------------------------------------------------------------------------------------------------------------
# Exported files


def file(change: float | None, low: float | None, high: float | None, images: int = 72) -> dict[str, Any]:
    row = {"file": "slim_int8.onnx", "precision": "int8", "runtime": "onnxruntime", "tolerance": 1e-3, "also": {}}
    row |= {"difference": None, "map50_95_difference": change, "map50_95_tolerance": 0.015, "map50_95_images": images}
    undecided = low is not None and low < -0.015 < high
    return row | {
        "map50_95_difference_low": low,
        "map50_95_difference_high": high,
        "map50_95_undecided": undecided,
    }


@pytest.mark.parametrize(
    ("row", "said"),
    [
        pytest.param(file(-0.009, -0.021, 0.003), None, id="the number is within: not refused"),
        pytest.param(
            file(-0.02, -0.031, -0.017), "2.00 points below PyTorch's (95 %: −3.1 to −1.7, 72 images)", id="so"
        ),
        pytest.param(
            file(-0.02, -0.05, 0.01),
            "(95 %: −5.0 to +1.0, 72 images: too few to tell on which side of the bound it is), more",
            id="the number is beyond: refused, and told that the images are too few",
        ),
        pytest.param(file(-0.02, None, None, 4), "(4 images: too few to say how sure), more", id="four images"),
        pytest.param(file(None, None, None), None, id="no labels: not measured, not refused"),
    ],
)  # fmt: skip
def test_the_bound_of_int8_goes_by_the_number_and_says_how_sure_it_is(row, said) -> None:
    lines = [*complaints(row)]
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]


# ---------------------------------------------------------------------------------------------------------------------
# At one confidence


@pytest.mark.parametrize(
    ("maps", "last", "words"),
    [
        pytest.param((0.395, 0.435), {}, None, id="as before"),
        pytest.param(
            (0.395, 0.435),
            BLIND,
            ["nothing in 17 of 20 images", "recall 0.05 and F1 0.10 (0.85 and F1 0.87)", "0.79 to 0.17", "conf=0.15"],
            id="mAP is higher, and nothing is found",
        ),
        pytest.param((0.6, 0.3), BLIND, ["nothing in 17 of 20"], id="mAP fell as well: blind all the same"),
        pytest.param((0.6, 0.4), {"recall_at_25": 0.7, "f1_at_25": 0.75}, None, id="no more than mAP says"),
        pytest.param((0.6, 0.6), {"recall_at_25": 0.7, "f1_at_25": 0.8}, ["recall 0.70"], id="recall alone"),
        pytest.param((0.6, 0.6), {"f1_at_25": 0.63, "best_confidence": 0.7}, ["conf=0.7"], id="scores rose"),
        pytest.param((0.6, 0.6), {"blind_images": 1}, None, id="one image of 20"),
        pytest.param((0.6, 0.6), {"blind_images": 2}, ["in 2 of 20", "No other"], id="higher hides more"),
        pytest.param((0.6, 0.2), {**BLIND, "f1_best": 0.3}, ["No other confidence helps"], id="little comes back"),
        pytest.param((0.6, 0.59), {**BLIND, "f1_best": 0.12}, ["No other confidence helps"], id="no way out by conf"),
        pytest.param((0.6, 0.7), {"recall_at_25": 0.9, "f1_at_25": 0.95, "median_best_score": 0.3}, None, id="better"),
    ],
)  # fmt: skip
def test_a_headline_warns_where_scores_have_moved(maps, last, words, report, tmp_path: Path) -> None:
    first, end = ({**row, **ON, **known(value)} for row, value in zip(report["rows"], maps, strict=True))
    report["rows"] = [{**first, "labelled_images": 20}, {**end, "labelled_images": 20, **last}]
    said = moved(*report["rows"])
    assert (said is None) == (words is None)
    texts = [markdown(report), page(report, tmp_path)]
    assert warnings(report) == [said] * (words is not None)
    for text in (said or "", *(texts if words else [])):
        assert [word for word in words or [] if word not in text] == []
    head = texts[1][: texts[1].index("<nav")]
    assert ("Scores have moved" in head) == (words is not None), "beside the headline, not below"
    assert texts[0].index("## Results") > texts[0].find("Scores have moved"), "before all tables"


def test_rows_of_an_older_report_have_no_warning(report, tmp_path: Path) -> None:
    assert warnings(report) == [] and "At one confidence" not in markdown(report) + page(report, tmp_path)


def test_every_row_has_its_numbers_at_one_confidence(report, tmp_path: Path) -> None:
    for row, more in zip(report["rows"], ({}, BLIND | {"precision_at_25": None}), strict=True):
        row |= {**ON, **more}
    text = markdown(report)
    lines = {
        "precision at 0.25": "0.900 | – | –",
        "recall at 0.25": "0.850 | 0.050 | −80.0",
        "best confidence": "0.40 | 0.15 | −0.25",
        "F1 there": "0.890 | 0.890 | +0.0",
        "images with nothing at 0.25, of 20": "0 | 17 | +17",
        "median best score": "0.79 | 0.17 | −0.62",
    }
    assert [line for line in lines.items() if f"| {' | '.join(line)} |" not in text] == []
    assert "<td>−80.0</td>" in page(report, tmp_path)


def test_the_summary_and_the_headline_say_how_sure_the_difference_is(report, tmp_path: Path) -> None:
    for row, value, spread in zip(report["rows"], (0.595, 0.571), (0.04, 0.02), strict=True):
        row |= {**known(value, spread), **ON}
    assert "−2.4 points; 95 %: −4.3 to −0.5, 72 images) on test" in summary(report)
    assert "| 0.595 → 0.571 on test | 95 %: −4.3 to −0.5, 72 images |" in markdown(report)
    assert "95 %: −4.3 to −0.5, 72 images</dd>" in page(report, tmp_path)
    assert "| mAP50-95 [95 %] |" in markdown(report) and "| 0.595 [0.557–0.633] |" in markdown(report)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        pytest.param({"split": None}, "", id="no data"),
        pytest.param({"split": "val", "map50_95": None}, "no image of val has a label", id="no labels"),
        pytest.param({**known(0.6, 0.02), **ON}, "0.600 [0.581–0.619] (val, 72 images)  F1 at 0.25 0.870", id="sure"),
        pytest.param({**few(0.6), **ON}, "mAP50-95 0.600 (val, 4 images)", id="four images"),
        pytest.param({**few(0.6), **ON, **BLIND}, ", nothing found in 17 of 20 images", id="blind"),
    ],
)
def test_the_line_that_a_stage_ends_with(row, said) -> None:
    assert said in worth(row)
    assert ("nothing found" in worth(row)) == ("blind" in said or "nothing" in said)


def test_changes_at_one_confidence_have_their_intervals_of_pairs(report) -> None:
    for row, f1 in zip(report["rows"], (0.8, 0.86), strict=True):
        drawn = {"precision": [], "recall": [0.5] * 201, "f1": (f1 + 0.02 * f1 * DRAWS).tolist()}
        row |= {**known(0.6), **ON, "f1_at_25": f1, "replicates_at_25": drawn}
    head, lines = compared_at(report["rows"])
    assert head[-1] == "change [95 %]"
    change = {name: cells[-1] for name, *cells in lines}
    assert change["F1 at 0.25"] == "+6.0 [+5.9 to +6.1]" and change["precision at 0.25"] == "+0.0"
    assert changes(report)["f1_at_25"] == pytest.approx({"difference": 0.06, "low": 0.0589, "high": 0.0611}, abs=1e-4)
    assert changes(report)["precision_at_25"] == {"difference": 0.0, "low": None, "high": None}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        pytest.param((known(0.6), known(0.62)), "More accurate, as far as 72 images of val can tell.", id="better"),
        pytest.param((known(0.6, 0.01), known(0.5, 0.02)), "Less accurate, by more than the choice of 72", id="worse"),
        pytest.param((known(0.6), known(0.59, 0.03)), "No difference in accuracy that 72 images of val", id="open"),
        pytest.param((few(0.6), few(0.3)), "4 images of val are too few to say whether", id="four images"),
        pytest.param(
            ({"map50_95": 0.6}, {"map50_95": 0.5}), "−10.0 points of mAP50-95, of unknown certainty.", id="unknown"
        ),
        pytest.param(({}, {"labels": 0, "split": "val", "map50_95": None}), "MAP not measured: no", id="no labels"),
    ],
)
def test_the_verdict_says_what_is_known(rows, said, report) -> None:
    report["rows"] = [{"stage": stage, **row} for stage, row in zip(("original", "pruned"), rows, strict=True)]
    assert verdict(report).startswith(said)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        pytest.param({"p10": 29, "median": 30, "p90": 31}, "Faster in PyTorch; ", id="every run but the slowest"),
        pytest.param({"p10": 38, "median": 39, "p90": 44}, "No difference in speed in PyTorch that", id="overlap"),
        pytest.param({"p10": 50, "median": 51, "p90": 52}, "Slower in PyTorch; ", id="slower"),
        pytest.param({"p10": 10, "median": 20, "p90": 21}, "Whether it is faster in PyTorch is not known", id="busy"),
    ],
)
def test_the_verdict_on_speed_goes_by_the_spread_of_the_runs(after, said, report) -> None:
    report["rows"][1]["latency_ms"] = after
    assert verdict(report).startswith(said)
    assert any("Time it again" in line for line in advice(report)) == ("not known" in said)
    assert [card.much for card in headline(report) if card.what == "speed"] == (["?"] if "not known" in said else [])


# ---------------------------------------------------------------------------------------------------------------------
# What to try next


def log(*maps: float) -> list[dict[str, float]]:
    return [{"epoch": e + 1.0, "metrics/mAP50-95(B)": value} for e, value in enumerate(maps)]


def per_class(*worth: float, labels: int = 40) -> list[dict[str, Any]]:
    return [{"id": k, "name": "abc"[k], "images": 9, "labels": labels, "ap50_95": v} for k, v in enumerate(worth)]


CALM = {"p10": 37, "median": 38, "p90": 39}
LOST = {"file": "slim_int8.onnx", "precision": "int8", "map50_95_difference": -0.02, "map50_95": 0.55}
LOST |= {"file_mb": 1.0, "runtime": "onnxruntime", "difference": None, "also": {}}


@pytest.mark.parametrize(
    ("first", "last", "more", "said"),
    [
        pytest.param(known(0.01), known(0.01), {}, "Train the original first: its mAP50-95 is 0.010", id="untrained"),
        pytest.param(
            {}, {"stage": "pruned", "train_epochs": None}, {}, "`yolo-slim finetune`", id="a cut without training"
        ),
        pytest.param(
            {}, {}, {"training": {"finetuned": log(0.3, 0.4, 0.41, 0.43)}},
            "last quarter of finetuned's 4 epochs still brought +2.0 points of mAP50-95 on val (`finetune.epochs=8`)",
            id="still rising",
        ),
        pytest.param(known(0.6), known(0.5, 0.01), {}, "cut less (`prune.target={flops: 0.65}`", id="surely worse"),
        pytest.param(
            {**known(0.6), "per_class": per_class(0.6, 0.6)}, {**known(0.59), "per_class": per_class(0.7, 0.5)}, {},
            "b fell most: AP50-95 0.600 → 0.500, all classes together −1.0 points. `yolo-slim sens", id="one class",
        ),
        pytest.param(
            {**known(0.6), "per_class": per_class(0.6, 0.6, labels=3)},
            {**known(0.6), "per_class": per_class(0.7, 0.5)}, {}, ", though 3 labels say little", id="a rare one",
        ),
        pytest.param({}, {}, {"export": {"files": [LOST]}}, "slim_int8.onnx loses 2.0 points to INT8", id="INT8"),
        pytest.param({}, {"latency_ms": CALM}, {}, "`prune.target={latency: 0.50}`", id="no speed"),
        pytest.param(few(0.6), few(0.6), {}, "4 images of val are too few to tell the detectors apart", id="few"),
        pytest.param(known(0.6), known(0.6, 0.03), {}, "it stays open whether a point of mAP50-95 is", id="open"),
        pytest.param(known(0.6), known(0.6), {}, "There is room: no point of mAP50-95 is lost", id="room"),
        pytest.param(known(0.6), known(0.6), {"split": "val"}, "val has chosen the epoch as well", id="seen"),
    ],
)  # fmt: skip
def test_what_to_try_next_comes_from_facts(first, last, more, said, report, tmp_path: Path) -> None:
    calm = copy.deepcopy(report)
    report["rows"] = [{**row, **of} for row, of in zip(report["rows"], (first, last), strict=True)]
    report |= {"export": None, **more}
    found = advice(report)
    assert sum(said in line for line in found) == 1 and len(found) <= 5
    assert not any(said in line for line in advice({**calm, "export": None})), "nothing is advised without its fact"
    assert said in markdown(report).replace("\\", "")
    assert html.unescape(said.replace("`", "")) in html.unescape(re.sub("</?code>", "", page(report, tmp_path)))


def test_of_one_stage_the_advice_is_to_go_on(report) -> None:
    assert (
        "`yolo-slim run`" in advice({**report, "rows": report["rows"][:1]})[0] and advice({**report, "rows": []}) == []
    )


# ---------------------------------------------------------------------------------------------------------------------
# Names


def named(*names: str) -> list[dict[str, Any]]:
    return [{"id": k, "name": n, "images": 1, "labels": 2, "ap50_95": 0.5 + k / 10} for k, n in enumerate(names)]


def test_classes_of_one_name_keep_their_rows(report, tmp_path: Path) -> None:
    for row in report["rows"]:
        row["per_class"] = [
            *named("cell", "cell", "True"),
            {**named("empty")[0], "id": 3, "ap50_95": None, "labels": 0},
        ]
    assert sorted(name for name, *_ in classes(report)) == ["True", "cell (0)", "cell (1)"]
    assert "1 more has no labels there" in by_class(report)[0]
    assert all(name in page(report, tmp_path) for name in ("cell (0)", "cell (1)"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("a b", "a b", id="plain"),
        pytest.param("<img src=x>", r"\<img src=x\>", id="HTML"),
        pytest.param("[a](javascript:b)", r"\[a\](javascript:b)", id="a link"),
        pytest.param("a\n# b", "a # b", id="two lines"),
        pytest.param("`*", r"\`\*", id="marks"),
        pytest.param(True, "True", id="no text"),
    ],
)
def test_text_from_files_is_text_in_markdown(text, shown, report) -> None:
    assert plain(text) == shown
    for row in report["rows"]:
        row["per_class"] = named(str(text), "other")
    assert f"\n| {shown} | 0.500 |" in markdown(report)


def test_a_cell_is_one_cell() -> None:
    assert table(("a",), [["x|y\nz"]]).splitlines()[-1] == r"| x\|y z |"
