"""The report: hand-made numbers in, the right words, ratios and pictures out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import Drawn, proportional
from hypothesis import given
from hypothesis import strategies as st

from yolo_slim.report import draw, markdown, summary
from yolo_slim.report.files import PLOTS as DRAWN_BY
from yolo_slim.report.numbers import digits, points, ratio
from yolo_slim.report.svg import Axis
from yolo_slim.text import tidy

pytest_plugins = ["handmade"]

PLOTS = ["map_flops.svg", "widths.svg", "scales.svg"]


def line(page: str, start: str) -> str:
    return next(text for text in page.splitlines() if text.startswith(start))


def test_summary_compares_the_first_row_with_the_last(report):
    assert summary(report) == (
        "bccd, original → finetuned: FLOPs ×0.50, parameters ×0.47, file ×0.48, latency ×0.75 "
        "(40.0 → 30.0 ms, PyTorch); mAP50-95 0.595 → 0.571 (−2.4 points) on test."
    )


def test_summary_does_not_hide_a_loss(report):
    report["rows"][1]["latency_ms"]["median"] = 50.0
    assert "latency ×1.25 (40.0 → 50.0 ms, PyTorch)" in summary(report)


def test_summary_leaves_out_what_was_not_measured(report):
    for row in report["rows"]:
        row.update(map50=None, map50_95=None, latency_ms=None)
    said = summary(report)
    assert said.endswith("file ×0.48; mAP was not measured on both.")
    assert "latency" not in said


@pytest.mark.parametrize(("count", "named"), [(1, "original"), (0, "nothing")])
def test_summary_of_less_than_two_rows(report, count, named):
    report["rows"] = report["rows"][:count]
    assert summary(report) == f"bccd: Nothing to compare yet; measured so far: {named}."
    assert "## Results" in markdown(report)


def test_each_row_has_its_numbers_and_its_ratio_to_the_first(report):
    page = markdown(report)
    assert line(page, "| original") == "| original | 2.00 | 2.20 | 4.00 | 0.900 | 0.595 | 40.0 [39.0–45.0] |"
    assert line(page, "| finetuned") == (
        "| finetuned | 0.940 (×0.47) | 1.10 (×0.50) | 1.92 (×0.48) | 0.910 (+1.0) | 0.571 (−2.4) "
        "| 30.0 [29.5–31.2] (×0.75) |"
    )


def test_a_missing_number_is_a_dash_and_a_measured_zero_is_not(report):
    report["rows"][1].update(map50=0.0, map50_95=None, latency_ms=None)
    del report["rows"][1]["file_mb"]
    row = line(markdown(report), "| finetuned")
    assert row == "| finetuned | 0.940 (×0.47) | 1.10 (×0.50) | – | 0.000 (−90.0) | – | – |"


def test_no_ratio_where_the_first_row_has_no_number(report):
    report["rows"][0].update(map50_95=None, latency_ms=None)
    row = line(markdown(report), "| finetuned")
    assert row.endswith("| 0.571 | 30.0 [29.5–31.2] |")


def test_every_row_of_the_table_has_as_many_cells_as_the_head(report):
    tables = [part.splitlines() for part in markdown(report).split("\n\n") if part.startswith("|")]
    cells = [{text.count("|") for text in part} for part in tables]
    assert cells == [{5}, {8}, {5}, {8}, {7}], "the headline, stages, widths, export, lineage"


def test_the_page_says_how_it_was_measured(report):
    page = markdown(report)
    assert "Ultralytics' validator on the test split of `data/bccd.yaml`, images of 320 px, one setting" in page
    assert "PyTorch 2.13.0, fused, on cpu (x86_64), 2 threads, batch 1, float32, 320 px" in page
    assert "of 50 runs." in page


def test_the_page_says_how_it_was_made(report):
    page = markdown(report)
    made = "| `original/original.pt` | 90 s | `aaaaaaaaaaaa` | 0.1.0 |"
    assert line(page, "| finetuned | `runs/bccd/finetuned/finetuned.pt`").endswith(made)
    assert "- finetuned was trained with `epochs=30`" in page and "original was trained" not in page
    assert "`epochs=30 train.lr0=0.01`" in page, "settings that are off are left out"
    report["lineage"][1]["teacher"] = "large.pt"
    assert "`original/original.pt`, taught by `large.pt` |" in markdown(report)


def test_flops_are_told_with_the_size_of_the_image(report):
    report["imgsz"] = [320, 480]
    for text in (markdown(report), DRAWN_BY["map_flops.svg"](report)):
        assert "320 × 480 px" in text
    assert "| GFLOPs at 320 × 480 px |" in markdown(report)


def test_the_page_says_what_was_not_measured(report):
    report.update(measured_on=None, split=None, data=None)
    for row in report["rows"]:
        row.update(map50=None, map50_95=None, latency_ms=None)
    page = markdown(report)
    assert "- mAP: not measured." in page and "- Latency: not measured." in page
    assert "None" not in page


def test_widths_cut_are_listed_and_widths_kept_are_counted_by_reason(report):
    page = markdown(report)
    assert "42 of 45 widths changed, 3 kept whole." in page
    assert "- 2 × view in model.24\n- 1 × free to go, none was removed" in page
    details = page[page.index("<details>") : page.index("</details>")]
    assert "\n| `model.0.conv` | 32 | 16 | 50% |\n" in details
    assert "model.42.conv" not in details and "model.24.m.0" not in details


def test_every_exported_file_has_its_line(report):
    page = markdown(report)
    assert line(page, "| `slim.onnx`") == (
        "| `slim.onnx` | fp32 | 3.50 | onnxruntime | 2.0e-05, 3.0e-05 (opencv) | 0.571 (+0.00) | – |"
    )
    rounded = "| `slim_int8_openvino_model` | int8 | 1.10 | openvino | – | 0.566 (−0.52) |"
    assert line(page, "| `slim_int8") == f"{rounded} – |"
    report["export"]["files"][1] |= {"map50_95_difference_low": -0.01, "map50_95_difference_high": 0.002}
    assert line(markdown(report), "| `slim_int8") == f"{rounded} −1.0 to +0.2 |"


def test_only_plots_that_were_drawn_are_linked(report):
    assert "![" not in markdown(report)
    page = markdown(report, ["widths.svg"])
    assert "![widths](widths.svg)" in page and "scales.svg" not in page


def test_sections_without_content_are_left_out(report):
    report.update(widths=[], export=None)
    page = markdown(report)
    assert "## Widths" not in page and "## Export" not in page


def test_the_report_is_left_as_it_was(report, tmp_path):
    kept = copy.deepcopy(report)
    markdown(report, PLOTS)
    draw(report, tmp_path)
    assert report == kept


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.765, "1.76"),  # three digits (1.765 lies just below in binary)
        (41.25, "41.2"),
        (0.0351, "0.0351"),  # small numbers keep three as well
        (103.4, "103"),  # no trailing point
        (1234.0, "1234"),  # no exponent
    ],
)
def test_digits(value, text):
    assert digits(value) == text


def test_ratio_and_points_need_both_numbers():
    assert ratio(1.0, None) is ratio(None, 1.0) is ratio(1.0, 0) is None
    assert points(0.5, None) is points(None, 0.5) is None
    assert points(0.5, 0.0) == "+50.0"
    assert points(0.59999, 0.6) == "+0.0"  # never "−0.0"


def test_draw_writes_whole_pictures_under_their_names_only(report, tmp_path):
    files = draw(report, tmp_path)
    assert files == [tmp_path / name for name in PLOTS]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    for file, marks in zip(files, (2, 42 * 2 + 2 + 2, 50 * 2 + 3), strict=True):
        found = Drawn(file.read_text(encoding="utf-8"))
        assert found.width > 400 and found.height > 300, file
        assert sum(g.get("data-x") is not None for g in found.root.iter("g")) == marks, file
        assert len(found.said("title")) == (2 if file.stem == "scales" else 1)
        assert all(t.left >= 0 and t.right <= found.width and t.bottom <= found.height for t in found.texts()), file


def test_files_have_the_light_colours_of_the_page_in_them(report):
    """And a background of their own: they are shown on any page."""
    found = Drawn(DRAWN_BY["map_flops.svg"](report))
    style = found.root.find("style").text
    assert ".after { color: #0072b2; }" in style and "fill: currentColor" in style and "@media" not in style
    card = found.root.find("rect")
    assert (card.get("class"), card.get("width"), card.get("height")) == (
        "card",
        found.root.get("width"),
        found.root.get("height"),
    )
    assert ".card { fill: #f6f7f8; }" in style


def test_names_in_files_are_text_and_never_markup(report, tmp_path):
    nasty = "a<script>&\"'\x1b\x00\ufffe\ud800b"
    report["rows"][1]["stage"] = report["widths"][0]["layer"] = report["widths"][-1]["reason"] = nasty
    said = {file.stem: Drawn(file.read_text(encoding="utf-8")) for file in draw(tidy(report), tmp_path)}
    assert "a<script>&\"'b 0.571" in said["map_flops"].said("note") and "a<script>&\"'b" in said["widths"].said("name")
    assert all(found.root.find(".//script") is None for found in said.values())


def test_draw_skips_what_has_no_numbers(report, tmp_path):
    report.update(widths=[], scales=None)
    for row in report["rows"]:
        row["map50_95"] = None
    assert draw(report, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_draw_into_a_missing_folder_leaves_nothing(report, tmp_path):
    with pytest.raises(FileNotFoundError):
        draw(report, tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_draw_that_fails_half_way_leaves_nothing(report, tmp_path, monkeypatch):
    write = Path.write_text

    def full_disk(self: Path, text: str, **kwargs: Any) -> int:
        if "widths" in self.name:
            write(self, text[:1000], **kwargs)
            raise OSError("No space left on device")
        return write(self, text, **kwargs)

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        draw(report, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_map_flops_shows_each_stage_at_its_cost(report):
    report["rows"].insert(1, {"stage": "pruned", "flops": 1.1e9, "map50_95": 0.0})
    report["rows"].insert(1, {"stage": "sparse", "flops": 2.2e9, "map50_95": None})
    found = Drawn(DRAWN_BY["map_flops.svg"](report))
    marks = found.marks()["stages"]
    assert [m.tip for m in marks] == [
        "original: 2.200 GFLOPs, mAP50-95 0.595",
        "pruned: 1.100 GFLOPs, mAP50-95 0.000",
        "finetuned: 1.100 GFLOPs, mAP50-95 0.571",
    ]
    assert marks[0].x > marks[1].x == marks[2].x and proportional([m.y for m in marks], [0.595, 0.0, 0.571])
    assert set(found.said("note")) == {"original 0.595", "pruned 0.000", "finetuned 0.571"}
    assert found.said("title") == ["mAP50-95 against FLOPs: the stages"], "the headline has the numbers"


@pytest.mark.parametrize("maps", [(0.6, 0.6), (0.6, 0.6001), (0.0, 0.0), (0.99, 1.0)])
def test_map_flops_keeps_labels_of_close_points_apart(report, maps):
    for row, value in zip(report["rows"], maps, strict=True):
        row.update(map50_95=value, flops=1e9)
    found = Drawn(DRAWN_BY["map_flops.svg"](report))
    high, low = sorted(found.texts("note"), key=lambda text: text.top)
    assert low.top > high.bottom
    assert found.texts("axis")[0].bottom < high.top and low.bottom < found.texts("middle")[0].top


def test_widths_shares_the_layers_among_rows_and_marks_the_protected(report):
    report["widths"].append({"layer": "model.24.dfl.conv", "before": 1, "after": 1, "reason": "frozen"})
    found = Drawn(DRAWN_BY["widths.svg"](report))
    assert len(found.pictures) == 2
    assert found.said("name") == [*map(str, range(43)), "24.m.0", "24.m.1"]  # short, and without the width of 1
    tips = [
        [g[0].text for g in found.pictures[1].findall("g") if look in g.get("class")] for look in ("whole", "after")
    ]
    assert tips[0] == [f"model.24.m.{i}: 24 channels, kept whole: view in model.24" for i in range(2)]
    assert tips[1] == [f"model.{i}.conv: 32 → 16 channels (50%)" for i in range(23, 42)] + [
        "model.42.conv: 32 → 32 channels (100%)"
    ]


def test_widths_leaves_room_for_the_others_when_one_is_cut_to_nothing(report):
    report["widths"][0]["after"] = 0
    found = Drawn(DRAWN_BY["widths.svg"](report))
    places = [float(g.get("data-x")) for g in found.pictures[0].findall("g") if "mark" in g.get("class")]
    assert set(found.said("tick")) == {"16", "32"}
    assert max(places) - min(places) > 180, "the ratio of two has most of the axis"


def test_scales_counts_every_scale_once_and_takes_the_log_where_there_is_one(report):
    report["scales"]["after"][0] = -50.0  # far out, and negative
    found = Drawn(DRAWN_BY["scales.svg"](report))
    shares = [float(m.tip.split(": ")[1].split("%")[0]) for marks in found.marks().values() for m in marks]
    assert len(shares) == 100 and sum(shares) == pytest.approx(200, abs=3)  # two distributions, each 100 %, rounded
    assert [m.tip.partition(",")[0] for m in found.marks(1)["median; 25 to 75%, 5 to 95%"]] == [
        f"epoch {e}: median 0.600" for e in (1, 2, 3)
    ]
    report["sparsity"] = []
    assert len(Drawn(DRAWN_BY["scales.svg"](report)).pictures) == 1


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 9))
def test_numbers_along_an_axis_are_round_and_within_it(low, span, most):
    high = low + span
    found = Axis(low, high, 0, 1).ticks(most)
    step = found[1] - found[0] if found[1:] else span
    assert len(found) <= most + 1 and (len(found) > 1 or most < 4)
    assert all(low - 1e-6 * step <= tick <= high + 1e-6 * step for tick in found)
    steps = np.diff(found).tolist()
    assert steps == pytest.approx([step] * len(steps), rel=1e-3)
    assert all(f"{step:.2e}"[:4] in ("1.00", "2.00", "2.50", "5.00") for step in steps if span > 1e-4 * abs(low))


@pytest.mark.parametrize("last", [2, 3, 5, 9, 20, 100, 300])
def test_epochs_along_an_axis_are_whole(last):
    found = Axis(1, last, 0, 1).ticks(6, whole=True)
    assert len(found) >= 2 and all(tick % 1 == 0 for tick in found)


@pytest.mark.parametrize(
    ("base", "low", "high", "expected"),
    [
        pytest.param(10, 16, 2200, [30, 100, 300, 1000], id="far apart: two in each decade"),
        pytest.param(10, 4, 60, [5, 10, 20, 50], id="1, 2, 5"),
        pytest.param(10, 0.05, 5e4, [0.1, 1, 10, 100, 1000, 10_000], id="powers alone"),
        pytest.param(2, 6, 300, [8, 16, 32, 64, 128, 256], id="channels"),
    ],
)
def test_numbers_along_a_logarithmic_axis(base, low, high, expected):
    assert Axis(low, high, 0, 1, base).ticks(5) == pytest.approx(expected)


def test_a_chart_of_none_does_not_count_none_of_one(report):
    for of in report["widths"]:
        of["after"] = of["before"]
    assert "None of 45 layers is cut" in DRAWN_BY["widths.svg"](report)


def test_targets_of_rounds_bear_their_units(report):
    asked, achieved = {"flops": 0.5, "size_mb": 2.5, "latency_ms": 12.0}, {"flops": 0.49, "size_mb": 2.4}
    row = {"round": 1, "asked": asked, "achieved": achieved, "map50_95_cut": 0.5, "map50_95_finetuned": 0.6}
    report["iterations"] = {"map50_95_original": 0.6, "split": "val", "stopped": None, "rounds": [row]}
    cells = line(markdown(report), "| 1 |").split(" | ")
    assert cells[1:3] == ["flops ×0.500, 2.50 MB, 12.0 ms", "flops ×0.490, 2.40 MB"]
