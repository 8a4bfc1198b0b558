"""report.html: every number of report.json is on it, nothing is fetched, and a browser draws it without complaint."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from handmade import retold, spread
from tiny import PX, colours, run

from yolo_slim import record
from yolo_slim.record import Record
from yolo_slim.report import chosen, counted, markdown, most_changed, page, picture, summary
from yolo_slim.report.changes import SIDES, changed, iou, same, tally
from yolo_slim.report.compared import by_class, classes
from yolo_slim.report.numbers import busy, digits
from yolo_slim.report.speed import timed
from yolo_slim.stages.pictures import _objects

pytest_plugins = ["handmade", "tiny"]

ARTEFACTS = Path(__file__).parent / "artefacts"
NASTY = "<script>alert('x')</script>\"&"


def section(text: str, key: str) -> str:
    """The HTML of one section."""
    return re.search(rf'<section id="{key}">.*?</section>', text, re.S)[0]


def seen(text: str) -> str:
    """The words of some HTML."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)))


# ---------------------------------------------------------------------------------------------------------------------
# What is on it


def test_the_headline_is_what_one_came_for(whole, tmp_path):
    text = page(whole, tmp_path)
    top = seen(text[text.index('<dl class="headline">') : text.index("</dl>")])
    for card in (
        "parameters ×0.47 2.00 → 0.940 M",
        "FLOPs ×0.50 2.20 → 1.10 GFLOPs at 320 px",
        "file size ×0.48 4.00 → 1.92 MB",
        "faster ×1.67 10.0 → 6.00 ms in onnxruntime",
        "points of mAP50-95 −2.4 0.595 → 0.571 on test",
    ):
        assert card in top


def test_nothing_repeats_the_headline(whole, tmp_path):
    text = seen(page(whole, tmp_path))
    assert text.count("×0.47") == 2, "on its card, and in the table"
    assert text.count("2.00 → 0.940") == text.count("0.595 → 0.571") == 1


def test_a_runtime_timed_on_a_busy_machine_is_told_of_only_where_all_were(whole, tmp_path):
    rows = whole["bench"]["rows"]
    _, on = chosen(whole["bench"])
    loud = {"p10": 1.0, "p90": 2.1}
    for row in rows:
        row["latency_ms"] = {**row["latency_ms"], **(loud if on["runtime"].startswith(row["runtime"]) else {})}
    times, other = chosen(whole["bench"])
    assert other["runtime"] == "openvino 1.2" != on["runtime"] and not any(map(busy, times))
    for row in rows:
        row["latency_ms"] |= loud
    retold(whole)
    assert chosen(whole["bench"])[1] == on and "onnxruntime on a busy machine" in summary(whole)
    text = seen(page(whole, tmp_path))
    assert "speed ? 10.0 → 6.00 ms in onnxruntime the machine was busy" in text
    assert "Whether it is faster in onnxruntime is not known" in text and "Layers behind" not in text
    assert "faster ×" not in text and "80%" not in seen(section(page(whole, tmp_path), "worth"))


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        pytest.param({}, ("onnxruntime", 10.0, 6.0), id="one image at a time, whatever more at once is"),
        pytest.param({("openvino", 1, "slim"): 5.9}, ("openvino", 8.0, 5.9), id="where the slim detector is quickest"),
        pytest.param(None, ("PyTorch", 40.0, 30.0), id="no benchmark: as the stages were timed"),
    ],
)
def test_one_runtime_is_told_of_wherever_latency_is(ms, said, report, whole, tmp_path):
    if ms is None:
        whole |= {"bench": None, "measured_on": {**whole["measured_on"], "runtime": "PyTorch 2.13.0, fused"}}
        for row, median in zip(whole["rows"], said[1:], strict=True):
            row["latency_ms"] = {"median": median, "p10": median, "p90": median}
    else:
        for row in whole["bench"]["rows"]:
            key = (row["runtime"], row["batch"], row["stage"])
            row["latency_ms"] = spread(ms.get(key, row["latency_ms"]["median"]))
        retold(whole)
    runtime, before, after = said
    both = f"{digits(before)} → {digits(after)} ms"
    text = page(whole, tmp_path)
    assert f"{both} in {runtime}" in seen(text) and f"{both}, {runtime})" in summary(whole)
    assert f"aster in {runtime}" in seen(text[: text.index("<dl")])
    table = seen(section(text, "results"))
    assert f"latency in {runtime}, ms" in table and f" {digits(after)} [" in table
    chart = seen(section(text, "worth"))
    assert f"the headline: {runtime}" in chart or f"Latency in {runtime}, batch 1" in chart
    assert f"Latency: {whole['measured_on']['runtime']}, on " in seen(section(text, "how"))


def test_a_stage_between_was_not_timed_and_has_a_dash(whole, tmp_path):
    whole["rows"].insert(1, {**whole["rows"][1], "stage": "pruned", "latency_ms": None})
    row = next(line for line in markdown(whole).splitlines() if line.startswith("| pruned"))
    assert row.endswith(" | – |") and "None" not in seen(page(whole, tmp_path))


@pytest.mark.parametrize(("slowest", "logarithmic"), [(40.0, False), (600.0, True)])
def test_runtimes_that_differ_tenfold_share_a_logarithmic_axis(slowest, logarithmic, whole, tmp_path):
    for row in whole["bench"]["rows"]:
        if row["runtime"] == "openvino":
            row["latency_ms"] = spread(slowest * row["batch"] if row["batch"] == 1 else 64.0)
    found = section(page(whole, tmp_path), "worth")
    assert ("ms, logarithmic" in found) == logarithmic
    marks = re.findall(r'class="mark before" data-x="([\d.]+)" [^>]*><title>(onnxruntime|openvino), original', found)
    near, far = float(marks[0][0]), float(marks[1][0])
    assert [name for _, name in marks[:2]] == ["onnxruntime", "openvino"], "the quickest first"
    assert far - near > 60, "both can be told from the left end"


def test_a_slower_detector_is_not_called_faster(whole, tmp_path):
    whole["rows"][1]["latency_ms"]["median"], whole["bench"] = 50.0, None
    text = seen(page(whole, tmp_path))
    assert "the speed: slower ×0.20 10.0 → 50.0 ms" in text and "faster" not in text


def test_the_table_of_stages_is_that_of_the_markdown(whole, tmp_path):
    row = next(line for line in markdown(whole).splitlines() if line.startswith("| finetuned"))
    assert " ".join(row.replace("|", " ").split()) in " ".join(seen(section(page(whole, tmp_path), "results")).split())


@pytest.mark.parametrize(
    ("key", "charts", "words"),
    [
        (
            "worth",
            5,
            ["onnxruntime, slim: 6.00 ms (5.40–7.20) ×0.60", "dog: 0.490 → 0.462", "obs: 1.100 GFLOPs"],
        ),
        ("widths", 2, ["42 of 45 layers are cut", "model.7.conv: 32 → 16 channels (50%)", "view in model.24"]),
        ("rounds", 1, ["round 1, fine-tuned: 0.600", "round 2, after the cut: 0.400"]),
        ("scales", 2, ["Scales below 0.01", "epoch 2: median 0.600, half in 0.400–0.800"]),
        ("training", 2, ["mAP50-95 0.530 after epoch 3 of 3", "epoch 2, val box: 0.550"]),
    ],
)
def test_each_section_has_its_charts_and_their_numbers(whole, tmp_path, key, charts, words):
    found = section(page(whole, tmp_path), key)
    assert len(re.findall(r'<svg class="chart', found)) == charts
    assert [word for word in words if word not in seen(found)] == []


def test_a_sweep_on_the_same_split_shares_the_chart_of_the_stages(whole, tmp_path):
    whole["sweep"]["split"] = "test"
    found = section(page(whole, tmp_path), "worth")
    assert len(re.findall(r'<svg class="chart', found)) == 4
    first = found[: found.index("</svg>")]
    assert re.findall(r'<g class="series \w+" data-name="([^"]+)"', first) == ["obs", "random", "stages"]


def test_every_layer_is_drawn_once_in_its_place(whole, tmp_path):
    found = section(page(whole, tmp_path), "widths")
    names = re.findall(r'<text class="name end"[^>]*>([^<]+)', found)
    assert names == [*map(str, range(43)), "24.m.0", "24.m.1"]
    places = [
        (float(x), float(y)) for x, y in re.findall(r'class="mark after" data-x="([\d.]+)" data-y="([\d.]+)"', found)
    ]
    assert len(places) == 43
    assert len({x for x, _ in places[:20]}) == 1 and len({y for _, y in places[:20]}) == 20


def test_latency_comes_from_the_benchmark_and_else_from_the_stages(whole):
    assert {key: len(rows) for key, rows in timed(whole).items()} == {
        (runtime, 2, batch): 2 for runtime in ("onnxruntime", "openvino") for batch in (1, 8)
    }
    whole["bench"], whole["measured_on"]["runtime"] = None, "PyTorch 2.13.0, fused"
    (key, rows), *others = timed(whole).items()
    assert key == ("PyTorch 2.13.0, fused", 2, 1) and not others
    assert [row["stage"] for row in rows] == ["original", "finetuned"]


def test_what_fell_most_is_the_first_of_the_classes(whole):
    assert [name for name, *_ in classes(whole)] == ["dog", "cat"]
    assert by_class(whole)[2][0] == ["dog", "0.490", "0.462", "−2.8"]
    whole["rows"][1]["per_class"].pop(0)
    assert classes(whole)[0] == ("cat", 0.7, None)


def test_the_markdown_has_the_same_numbers(whole):
    text = markdown(whole)
    assert "| dog | 0.490 | 0.462 | −2.8 |" in text
    assert r"| onnxruntime | 2 | 8 | 80.0 \[72.0–96.0\] | 48.0 \[43.2–57.6\] | 1.67× | 80% |" in text
    assert "| 3.jpg | 2 | 1 | 0 | 1 | 1 | 1 |" in text, "true and false positives, and what is missed, by both"
    assert "| lost: found by the original alone | 1 |".replace("1 |", "4 |") in text
    assert "| false positives | 4 → 4 |" in text


def test_what_became_speed_is_a_table_and_so_are_the_layers_behind(whole, tmp_path):
    said = ["onnxruntime 2 1 10.0 [9.00–12.0] 6.00 [5.40–7.20] 1.67× 80%"]
    said += ["Layers behind their FLOPs", "model.7.conv openvino ×0.50 4.00 2.00 3.50"]
    said += ["on a chip, 2 threads, images of 320 px, float32", "6 runs each, in onnxruntime 1.2, openvino 1.2"]
    text = seen(page(whole, tmp_path))
    for words in said:
        assert words in text
        assert words.split()[-1] in markdown(whole)


def test_several_images_at_a_time_are_named_in_the_headline(whole, tmp_path):
    whole["bench"]["rows"] = [row for row in whole["bench"]["rows"] if row["batch"] == 8]
    retold(whole)
    assert "ms in onnxruntime, batch 8" in seen(page(whole, tmp_path)) and "onnxruntime, batch 8)" in summary(whole)


def test_the_markdown_has_the_sweep_and_the_trainings(whole):
    text = markdown(whole)
    assert "| obs | reconstruct | 1.100 | 0.500 |" in text and "| original | – | 2.200 | 0.600 |" in text
    assert "| finetuned | 3 | 0.510 | 0.530 (epoch 3) | 0.530 |" in text


def test_an_export_that_failed_is_told(whole, tmp_path):
    broken = {**whole["export"]["files"][0], "map50_95": None, "map50_95_difference": None, "difference": None}
    broken |= {"also": {}, "error": "x", "not_in": {"opencv": "error: no such operator"}}
    whole["export"] = {"files": [broken], "wrong": ["slim.onnx: onnxruntime does not run it: x"]}
    for text in (seen(section(page(whole, tmp_path), "export")), markdown(whole)):
        assert "Failed: slim.onnx: onnxruntime does not run it: x" in text
        assert "slim.onnx does not run in opencv: error: no such operator" in text


def test_exported_files_have_a_row_each(whole, tmp_path):
    found = " ".join(seen(section(page(whole, tmp_path), "export")).split())
    assert "slim.onnx fp32 3.50 onnxruntime 2.0e-05, 3.0e-05 (opencv) 0.571 (+0.00) –" in found
    assert "slim_int8_openvino_model int8 1.10 openvino – 0.566 (−0.52) –" in found


def kinds(found: str) -> Counter[str]:
    """How many boxes there are of each look."""
    return Counter(re.findall(r'<g class="box ([^"]+)"', found))


def test_pictures_tell_true_and_false_positives_and_missed_objects_apart(whole, tmp_path):
    found = section(page(whole, tmp_path), "pictures")
    assert found.count("data:image/jpeg;base64,") == found.count("<use ") == 4
    assert kinds(found) == {
        "right same": 2 * 4,  # both find the cat
        "right": 4,  # the original the dog
        "right off": 4,  # as the slim detector does below the threshold
        "wrong": 2 * 4,
        "object same": 2 * 4,
        "object": 4,  # the dog, found
        "object missed": 4,  # and not
    }
    assert 'aria-label="0.jpg, original: 2 true positives, 1 false, 0 missed"' in found and "1 more" in found
    assert "slim: TP 1 , FP 1 , missed 1" in seen(found)
    assert found.count("<title>missed: dog</title>") == 8 and found.count("<title>✕ dog 0.40</title>") == 8
    assert 'min="0.05" max="0.95" step="0.05" value="0.25"' in found


def test_without_labels_no_box_is_called_right_or_wrong(whole, tmp_path):
    shown = [picture(f"x/{i}.jpg", (90, 120), *boxes_of(of), None) for i, of in enumerate(whole["pictures"]["shown"])]
    shown = [{**of, "file": f"images/{i:02d}.jpg"} for i, of in enumerate(shown)]
    whole["pictures"] |= {"shown": shown, "counted": counted(shown)}
    found = section(page(whole, tmp_path), "pictures")
    assert kinds(found) == {"unjudged same": 8, "unjudged": 12, "unjudged off": 4}
    assert "slim: boxes 2 , in this alone 1" in seen(found) and "TP" not in seen(found)
    assert "nobody knows which is right" in seen(found) and "| 3.jpg | 3 | 2 | 2 | 1 |" in markdown(whole)


def boxes_of(found: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [found["original"], found["slim"]]


def test_a_report_of_one_stage_without_data_is_a_page_too(report, tmp_path):
    report["rows"] = [{**report["rows"][0], "map50": None, "map50_95": None}]
    report |= {"split": None, "data": None, "widths": [], "scales": None, "sparsity": [], "export": None}
    text = page(report, tmp_path)
    assert "Nothing to compare yet" in text and "mAP: not measured" in text and "None" not in text
    assert re.findall(r'<section id="(\w+)"', text) == ["results", "worth", "made", "how"]


# ---------------------------------------------------------------------------------------------------------------------
# What is not on it


def test_names_are_text_and_never_markup(whole, tmp_path):
    before = page(whole, tmp_path)
    whole["name"] = whole["data"] = whole["pictures"]["shown"][0]["name"] = NASTY
    whole["lineage"][0] |= {"file": NASTY, "made_from": [NASTY], "settings": {NASTY: NASTY}, "teacher": NASTY}
    whole["lineage"][1]["training"] = {NASTY: NASTY}
    whole["widths"][0]["layer"] = whole["widths"][-1]["reason"] = NASTY
    whole["sweep"]["rows"][0]["criterion"] = NASTY
    for row in whole["bench"]["rows"][:2]:
        row["runtime"] = row["version"] = row["device"] = NASTY
    whole["export"]["files"][0] |= {"file": NASTY, "runtime": NASTY}
    for row in whole["rows"]:
        row["per_class"] = [{"id": k, "name": NASTY, "images": 1, "labels": 1, "ap50_95": 0.5} for k in (0, 1)]
    for box in whole["pictures"]["shown"][0]["slim"]:
        box["name"] = NASTY
    text = page(whole, tmp_path)
    assert text.count("<script") == before.count("<script") == 1
    assert text.count(html.escape(NASTY, quote=False)[:12]) > 15
    assert re.findall(r'="[^"]*<script', text) == []


def test_nothing_is_fetched(whole, tmp_path):
    text = page(whole, tmp_path)
    assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*|url\(|@import|https?://|\bfetch\(|XMLHttpRequest", text) == []
    assert "default-src 'none'" in text


def test_the_largest_page_is_small_and_soon_there(whole, tmp_path):
    rng = np.random.default_rng(0)
    whole["widths"] = [
        {"layer": f"model.{i}.m.0.conv", "before": 512, "after": 200, "reason": None} for i in range(400)
    ]
    for row in whole["rows"]:
        row["per_class"] = [
            {"id": i, "name": f"class {i}", "images": 1, "labels": 1, "ap50_95": float(rng.random())}
            for i in range(365)
        ]
    log = [{**epoch, "epoch": float(e)} for e in range(300) for epoch in whole["training"]["finetuned"][:1]]
    whole["training"] = {stage: log for stage in ("original", "sparse", "finetuned")}
    whole["scales"] = {key: rng.random(30_000).tolist() for key in ("before", "after")}
    first = whole["pictures"]["shown"][0]
    (tmp_path / first["file"]).write_bytes(rng.bytes(60_000))
    whole["pictures"]["shown"] = [{**first, "original": 100 * first["original"]} for _ in range(12)]
    start = time.process_time()
    text = page(whole, tmp_path)
    assert time.process_time() - start < 10
    assert len(text.encode()) < 5e6


# ---------------------------------------------------------------------------------------------------------------------
# What has changed in an image


def box(name: str, score: float, *xyxy: float) -> dict[str, Any]:
    return {"id": ord(name), "name": name, "score": score, "xyxy": list(xyxy)}


@pytest.mark.parametrize(
    ("before", "after", "pairs"),
    [
        pytest.param([box("a", 0.9, 0, 0, 10, 10)], [box("a", 0.3, 0, 0, 10, 6)], {0: 0}, id="over half"),
        pytest.param([box("a", 0.9, 0, 0, 10, 10)], [box("a", 0.9, 0, 0, 10, 5)], {0: 0}, id="exactly half"),
        pytest.param([box("a", 0.9, 0, 0, 10, 10)], [box("a", 0.9, 0, 0, 10, 4)], {}, id="less than half"),
        pytest.param([box("a", 0.9, 0, 0, 10, 10)], [box("b", 0.9, 0, 0, 10, 10)], {}, id="another class"),
        pytest.param([box("a", 0.9, 0, 0, 4, 4)], [box("a", 0.9, 5, 5, 9, 9)], {}, id="apart"),
        pytest.param([box("a", 0.9, 3, 3, 3, 3)], [box("a", 0.9, 3, 3, 3, 3)], {}, id="no area"),
        pytest.param([], [box("a", 0.9, 0, 0, 4, 4)], {}, id="nothing before"),
        pytest.param(
            [box("a", 0.4, 0, 0, 10, 10), box("a", 0.9, 0, 0, 10, 9)], [box("a", 0.9, 0, 0, 10, 10)], {1: 0},
            id="the surest chooses first",
        ),
        pytest.param(
            [box("a", 0.9, 0, 0, 10, 10)], [box("a", 0.9, 0, 0, 10, 6), box("a", 0.3, 0, 0, 10, 9)], {0: 1},
            id="the best overlap is chosen",
        ),
    ],
)  # fmt: skip
def test_same_boxes(before, after, pairs):
    assert same(before, after) == pairs


def test_iou_by_hand():
    found = iou(np.array([[0, 0, 2, 2], [5, 5, 5, 5]]), np.array([[1, 1, 3, 3], [5, 5, 5, 5.0]]))
    assert found == pytest.approx(np.array([[1 / 7, 0], [0, 0]]))


def test_an_object_belongs_to_the_surest_box_at_every_threshold():
    cat = {"id": ord("a"), "name": "a", "xyxy": [0, 0, 10, 10]}
    before = [box("a", 0.3, 0, 0, 10, 10), box("a", 0.8, 0, 0, 10, 8), box("b", 0.9, 0, 0, 10, 10)]
    after = [box("a", 0.1, 0, 0, 10, 9)]
    found = picture("x/1.jpg", (10, 10), before, after, [cat])
    assert found["objects"] == [{**cat, "original": 0.8, "slim": 0.1}]
    assert [(of["object"], of["other"]) for of in found["original"]] == [(None, 0.0), (0, 0.1), (None, 0.0)]
    assert [(of["object"], of["other"]) for of in found["slim"]] == [(0, 0.8)]
    tallies = {c: [tuple(tally(found, side, c).values()) for side in SIDES] for c in (0.05, 0.25, 0.5, 0.85)}
    assert tallies == {  # true, false, missed
        0.05: [(1, 2, 0), (1, 0, 0)],
        0.25: [(1, 2, 0), (0, 0, 1)],
        0.5: [(1, 1, 0), (0, 0, 1)],
        0.85: [(0, 1, 1), (0, 0, 1)],
    }
    assert changed(found, 0.05) == [0.3, 0.9] and sorted(changed(found)) == [0.3, 0.8, 0.9]


def test_a_false_positive_of_both_has_not_changed():
    found = picture("x/1.jpg", (10, 10), [box("a", 0.8, 0, 0, 9, 9)], [box("a", 0.6, 0, 0, 9, 8)], [])
    assert [found[side][0]["other"] for side in SIDES] == [0.6, 0.8] and changed(found) == []
    assert changed(found, 0.7) == [0.8]


def test_objects_are_counted_over_all_images():
    cat = {"id": ord("a"), "name": "a", "xyxy": [0, 0, 10, 10]}
    sure, other = [box("a", 0.8, 0, 0, 10, 10)], [box("b", 0.8, 0, 0, 10, 10)]
    cases = [(sure, sure), (sure, []), ([], sure), ([], other)]
    found = counted([picture("1.jpg", (10, 10), *boxes, [cat]) for boxes in cases])
    assert found == {"objects": 4, "both": 1, "lost": 1, "gained": 1, "neither": 1} | {
        "false_original": 0,
        "false_slim": 1,
    }
    assert counted([picture("1.jpg", (10, 10), sure, [], None)]) is None, "without labels nothing is known"


def test_pictures_that_changed_most_come_first_and_scores_decide_ties():
    one, sure = box("a", 0.5, 0, 0, 9, 9), box("a", 0.8, 0, 0, 9, 9)
    cases = {
        "none": ([one], [one]),
        "weak": ([one], []),
        "strong": ([], [sure]),
        "two": ([one], [box("b", 0.3, 0, 0, 9, 9)]),
        "below": ([one], [one, box("b", 0.2, 0, 0, 9, 9)]),
    }
    pictures = [picture(f"x/{name}.jpg", (9, 9), *boxes, None) for name, boxes in cases.items()]
    assert [p["name"] for p in most_changed(pictures, 3)] == ["two.jpg", "strong.jpg", "weak.jpg"]
    assert [len(changed(p)) for p in pictures] == [0, 1, 1, 2, 0]


# ---------------------------------------------------------------------------------------------------------------------
# From a run


def put(folder: Path, source: Path, content: dict[str, Any]) -> None:
    """A finished stage that is no row of the report, made from `source`."""
    folder.mkdir()
    file = folder / f"{folder.name}.json"
    record.write_json(file, content)
    sums = {"json": record.sha256(file)}
    inputs = {source.name: record.sha256(source)}
    record.write(folder, Record(folder.name, {}, inputs, {"json": file.name}, sums, {}, 1.0))


class Reported:
    """A pruned run in `folder`; calling it reports, and returns report.json."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.words, self.folder = words, folder
        assert run("prune", *words, "prune.recalibrate=4").code == 0

    def __call__(self) -> dict[str, Any]:
        answer = run("report", *self.words)
        assert answer.code == 0, answer
        return json.loads((self.folder / "report" / "report.json").read_text())


@pytest.fixture(scope="module")
def reported(original: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    runs = tmp_path_factory.mktemp("reported") / "runs"
    words = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", "report.latency_runs=1"]
    return Reported([*words, "prune.ratio=0.3"], runs / "slim")


def test_a_run_becomes_a_page(reported, whole, tmp_path):
    run_folder = reported.folder
    put(run_folder / "bench", run_folder / "pruned" / "pruned.pt", whole["bench"])
    put(run_folder / "sweep", run_folder / "original" / "original.pt", whole["sweep"])
    found, folder = reported(), run_folder / "report"
    text = (folder / "report.html").read_text()
    assert record.read(folder).outputs["html"] == "report.html"
    for row in found["rows"]:
        aps = [of["ap50_95"] for of in row["per_class"] if of["labels"]]
        assert np.mean(aps) == pytest.approx(row["map50_95"], abs=1e-6) and len(row["per_class"]) == 4
        metrics = record.read(run_folder / row["stage"]).metrics
        same = metrics.keys() - {"file_mb", "replicates", "replicates_at_25"}
        assert {k: row[k] for k in same} == {k: metrics[k] for k in same} and "f1_at_25" in same
    shown = found["pictures"]["shown"]
    assert found["pictures"]["of"] == len(shown) == 4
    assert sorted(p.name for p in (folder / "images").iterdir()) == [f"{i:02d}.jpg" for i in range(4)]
    assert max(max(b["xyxy"]) for p in shown for b in p["original"]) <= PX
    counts = [len(changed(p)) for p in shown]
    assert counts == sorted(counts, reverse=True) and counts[0] > 0
    assert all(p["name"] in text for p in shown)
    objects = [of for p in shown for of in p["objects"]]
    labels = sum(of["labels"] for of in found["rows"][0]["per_class"])
    assert len(objects) == labels == found["pictures"]["counted"]["objects"] > 0
    assert all(
        0 <= low < high <= PX for of in objects for low, high in zip(of["xyxy"][:2], of["xyxy"][2:], strict=True)
    )
    assert {of["name"] for of in objects} <= {of["name"] for of in found["rows"][0]["per_class"]}
    assert all(b["score"] >= 0.05 for p in shown for side in SIDES for b in p[side])
    (before, after), on = chosen(whole["bench"])
    assert found["measured_on"] == on and [row["latency_ms"] for row in found["rows"]] == [before, after]
    assert found["bench"] == whole["bench"] and found["sweep"] == whole["sweep"] and "openvino" in text


def test_objects_are_read_where_they_are():
    """Of an image that is no square."""
    label = {"cls": np.array([[2.0]]), "bboxes": np.array([[0.5, 0.5, 0.25, 0.5]])}
    assert _objects(label, (100, 200), {2: "two"}) == [{"id": 2, "name": "two", "xyxy": [75.0, 25.0, 125.0, 75.0]}]
    assert _objects({"cls": np.empty((0, 1)), "bboxes": np.empty((0, 4))}, (100, 200), {}) == []


def test_benchmarks_and_sweeps_of_other_weights_are_left_out(reported, tmp_path):
    (tmp_path / "old.pt").write_text("old")
    for name in ("bench", "sweep"):
        shutil.rmtree(reported.folder / name, ignore_errors=True)
        put(reported.folder / name, tmp_path / "old.pt", {"rows": []})
    found = reported()
    assert found["bench"] is None and found["sweep"] is None


# ---------------------------------------------------------------------------------------------------------------------
# In a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

CHECKS = """{
const drawn = [...document.querySelectorAll(".chart")].map((c) => {
  const box = c.getBoundingClientRect();
  const inside = c.marks.filter((m) => {
    const at = m.querySelector("circle").getBoundingClientRect();
    return at.left >= box.left - 2 && at.right <= box.right + 2 && at.top >= box.top - 2 && at.bottom <= box.bottom + 2;
  });
  return { width: box.width, height: box.height, marks: c.marks.length, inside: inside.length };
});
const chart = document.querySelector(".chart.xy"), at = chart.marks[0].querySelector("circle").getBoundingClientRect();
const to = { clientX: at.left + at.width / 2, clientY: at.top + at.height / 2 };
chart.dispatchEvent(new PointerEvent("pointermove", to));
const tip = document.getElementById("tip").textContent;
const button = document.querySelector(".legend button");
button.click();
const off = document.querySelectorAll(".series.off").length;
button.click();
const figure = button.closest("figure"), all = [...figure.querySelectorAll(".legend button")];
all.forEach((b) => b.click());
const emptied = figure.querySelector(".chart");
emptied.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
const quiet = document.getElementById("tip").hidden;
all.forEach((b) => b.click());
const score = document.getElementById("score");
const count = (look) => document.querySelectorAll(look).length;
const at_score = (value) => {
  score.value = value;
  score.dispatchEvent(new Event("input"));
  const said = document.querySelectorAll(".pane figcaption")[1].textContent;
  return [count(".box:not(.off, .object)"), count(".box.missed"), count(".box:not(.same, .off)"), said];
};
const scores = [0.85, 0.05, 0.25].map(at_score);
document.querySelector(".panes").click();
const large = document.getElementById("large");
const panes = large.open ? large.querySelectorAll("svg").length : 0;
large.close();
const images = [...document.querySelectorAll(".pane image, .pane use")].filter((i) => i.getBBox().width > 0).length;
const wide = document.documentElement.scrollWidth - innerWidth;
const answer = JSON.stringify({ drawn, quiet, tip, off, scores, panes, images, wide, width: innerWidth });
document.documentElement.setAttribute("data-checks", answer);
parent.postMessage(answer, "*");
}"""
TALL = 12_000  # higher than the page, and all of it is in the picture
BUDGET = "--virtual-time-budget=4000"  # of a frame's message, too, the page that is printed has to hear
WIDE, NARROW = 1280, 400
SCHEMES = {"light": 1, "dark": 0}
FRAME = f"""<!DOCTYPE html><body style="margin:0">
<iframe src="{{}}" width="{NARROW}" height="{TALL}" style="border:0"></iframe>
<script>addEventListener("message", (e) => document.documentElement.setAttribute("data-checks", e.data))</script>"""


class Browser:
    """Pages opened from the disk, all at a time, in a browser that finds no network."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.open = folder, {}

    def start(self, name: str, file: Path, *flags: str) -> None:
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]
        command += [f"--user-data-dir={self.folder / name}", *flags, file.as_uri()]
        self.open[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(self, name: str) -> tuple[str, list[str]]:
        """What was printed, and what the page's console said."""
        out, err = self.open[name].communicate(timeout=300)
        return out, [line for line in err.splitlines() if "CONSOLE" in line]


def checks(dom: str) -> dict[str, Any]:
    return json.loads(html.unescape(re.search(r'data-checks="([^"]*)"', dom)[1]))


@pytest.fixture
def browser(whole: dict[str, Any], tmp_path: Path) -> Iterator[Browser]:
    """The page of `whole` in every way one may look at it; pictures of it go to ARTEFACTS, which CI keeps."""
    ARTEFACTS.mkdir(exist_ok=True)
    text = page(whole, tmp_path)
    names = ("report", "checked", "broken", "narrow", "framed", "still")
    plain, checked, broken, narrow, framed, still = (tmp_path / f"{name}.html" for name in names)
    plain.write_text(text)
    checked.write_text(text.replace("</body>", f"<script>{CHECKS}</script></body>"))
    broken.write_text(text.replace("</body>", "<script>missing()</script><img src='https://a.b/c.png'></body>"))
    narrow.write_text(FRAME.format(checked.name))  # headless windows are no narrower than 500
    framed.write_text(FRAME.format(plain.name))
    still.write_text(text.replace("script-src 'unsafe-inline'; ", ""))  # where no script is allowed to run
    opened = Browser(tmp_path)
    opened.start("desk", checked, f"--window-size={WIDE},900", "--dump-dom", BUDGET)
    opened.start("phone", narrow, "--window-size=500,900", "--dump-dom", BUDGET)
    opened.start("broken", broken, "--dump-dom", BUDGET)
    shots = (
        (f"{width}-{scheme}", file, scheme) for width, file in ((WIDE, plain), (NARROW, framed)) for scheme in SCHEMES
    )
    for name, file, scheme in (*shots, ("no-script", still, "light")):
        width = max(500, NARROW if file is framed else WIDE)
        shot = f"--screenshot={ARTEFACTS / f'report-{name}.png'}"
        opened.start(
            name,
            file,
            shot,
            f"--window-size={width},{TALL}",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        )
    opened.start("paper", plain, f"--print-to-pdf={ARTEFACTS / 'report.pdf'}", "--no-pdf-header-footer")
    yield opened
    for process in opened.open.values():
        process.kill()


def last_row(picture: np.ndarray) -> int:
    """The lowest row of a picture (H, W, 4) that is not all paper."""
    return int(np.flatnonzero((picture != picture[-1, 0]).any((1, 2)))[-1])


@needs_chromium
def test_a_browser_draws_it_without_complaint(browser: Browser) -> None:
    for name, width in (("desk", WIDE), ("phone", NARROW)):
        dom, console = browser.result(name)
        assert console == [], name
        found = checks(dom)
        assert found["width"] == width and found["wide"] <= 0, "nothing is wider than the window"
        assert len(found["drawn"]) == 12
        for chart in found["drawn"]:
            assert chart["width"] > 250 and chart["height"] > 60 and chart["inside"] == chart["marks"] > 0
        assert found["tip"].startswith("original: 2.200 GFLOPs") and found["off"] == 1
        assert found["quiet"], "an arrow where every series is taken off shows nothing, and breaks nothing"
        # Boxes shown, objects missed and what has changed, of four pictures: two cats, two dogs, two false positives.
        assert found["scores"] == [
            [2 * 4, 2 * 4, 0, "slim: TP 1, FP 0, missed 1"],
            [6 * 4, 0, 2 * 4, "slim: TP 2, FP 1, missed 0"],
            [5 * 4, 1 * 4, 5 * 4, "slim: TP 1, FP 1, missed 1"],
        ]
        assert found["panes"] == 2 and found["images"] >= 6
    assert len(browser.result("broken")[1]) >= 2, "an error and a picture from elsewhere would have been seen"
    shots = {}
    for name in (*(f"{width}-{scheme}" for width in (WIDE, NARROW) for scheme in SCHEMES), "no-script"):
        console = browser.result(name)[1]
        assert [line for line in console if "inline script" not in line] == []
        assert len(console) == (name == "no-script")
        file, width = str(ARTEFACTS / f"report-{name}.png"), int(name.partition("-")[0]) if name[0].isdigit() else WIDE
        pixels = cv2.imread(file)[:, :width]
        cv2.imwrite(
            file, pixels[: last_row(pixels) + 40]
        )  # a frame is narrower than its window, and higher than the page
        shots[name] = cv2.cvtColor(pixels, cv2.COLOR_BGR2BGRA) / 255
        end = last_row(pixels)
        assert 4000 < end < TALL - 20, f"{name}: the window holds the page to its end"
        assert colours(shots[name][end - 200 : end]) > 20, f"{name}: its last section is there"
    corner = {name: shot[5, 5, :3].mean() for name, shot in shots.items()}
    assert {corner[name] for name in corner if "dark" not in name} == {1}
    assert all(corner[f"{width}-dark"] < 0.2 for width in (WIDE, NARROW))
    browser.result("paper")
    assert (ARTEFACTS / "report.pdf").read_bytes().startswith(b"%PDF")
