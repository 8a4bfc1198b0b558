"""The report: hand-made numbers in, the right words, ratios and pictures out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from tiny import colours

from yolo_slim.report import draw, markdown, summary
from yolo_slim.report.numbers import digits, points, ratio
from yolo_slim.report.plots import STYLE, map_flops, scales, widths

pytest_plugins = ["handmade"]

PLOTS = ["map_flops.png", "widths.png", "scales.png"]


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
    assert summary(report) == f"bccd: nothing to compare yet; measured so far: {named}."
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
    rows = [text for text in markdown(report).splitlines() if text.startswith("|")]
    assert {text.count("|") for text in rows[:4]} == {8}
    assert {text.count("|") for text in rows[4:-4]} == {5}
    assert {text.count("|") for text in rows[-4:]} == {7}


def test_the_page_says_how_it_was_measured(report):
    page = markdown(report)
    assert "Ultralytics' validator on the test split of `data/bccd.yaml`, images of 320 px, one setting" in page
    assert "PyTorch 2.13.0, fused, on cpu (x86_64), 2 threads, batch 1, float32, 320 px" in page
    assert "of 50 runs." in page
    assert "- finetuned: `runs/bccd/finetuned/finetuned.pt`, 30 epochs of training, mimic" in page


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
        "| `slim.onnx` | fp32 | 3.50 | onnxruntime | 2.0e-05, 3.0e-05 (opencv) | 0.571 (+0.00) |"
    )
    assert line(page, "| `slim_int8") == "| `slim_int8_openvino_model` | int8 | 1.10 | openvino | – | 0.566 (−0.52) |"


def test_only_plots_that_were_drawn_are_linked(report):
    assert "![" not in markdown(report)
    page = markdown(report, ["widths.png"])
    assert "![widths](widths.png)" in page and "scales.png" not in page


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
    for file in files:
        picture = imread(file)  # [H, W, 4]
        assert picture.shape[0] > 500 and picture.shape[1] > 900, file
        assert 0.02 < (picture[..., :3].min(-1) < 0.95).mean() < 0.6, f"{file}: hardly anything, or too much, is drawn"
        assert colours(picture) > 50, file


def test_draw_leaves_the_settings_of_matplotlib_alone(report, tmp_path):
    before = {key: matplotlib.rcParams[key] for key in STYLE}
    draw(report, tmp_path)
    assert {key: matplotlib.rcParams[key] for key in STYLE} == before != STYLE


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
    save = Figure.savefig

    def full_disk(self: Figure, file: Path, **kwargs: Any) -> None:
        save(self, file, **kwargs)
        if "widths" in file.name:
            raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space left"):
        draw(report, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_map_flops_shows_each_stage_at_its_cost(report):
    report["rows"].insert(1, {"stage": "pruned", "flops": 1.1e9, "map50_95": 0.0})
    report["rows"].insert(1, {"stage": "sparse", "flops": 2.2e9, "map50_95": None})
    axes = map_flops(report).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[2.2, 0.595], [1.1, 0.0], [1.1, 0.571]]
    assert {t.get_text() for t in axes.texts} == {"", "original 0.595", "pruned 0.000", "finetuned 0.571"}
    assert axes.get_title() == "original → finetuned: FLOPs ×0.50, mAP50-95 −2.4 points"


@pytest.mark.parametrize("maps", [(0.6, 0.6), (0.6, 0.6001), (0.0, 0.0), (0.99, 1.0)])
def test_map_flops_keeps_labels_of_close_points_apart(report, maps):
    for row, value in zip(report["rows"], maps, strict=True):
        row.update(map50_95=value, flops=1e9)
    axes = map_flops(report).axes[0]
    low, high = sorted(t.xy[1] for t in axes.texts if t.get_text())
    bottom, top = axes.get_ylim()
    assert high - low > 0.05 * (top - bottom)
    assert bottom < low and high < top


def test_widths_shares_the_layers_among_rows_and_marks_the_protected(report):
    report["widths"].append({"layer": "model.24.dfl.conv", "before": 1, "after": 1, "reason": "frozen"})
    panels = widths(report).axes
    names = [t.get_text() for axes in panels for t in axes.get_xticklabels()]
    assert len(panels) == 2
    assert names == [*map(str, range(43)), "24.m.0", "24.m.1"]  # short, and without the width of 1
    before, after, whole = panels[1].get_lines()
    assert whole.get_ydata().tolist() == [24, 24]
    assert before.get_ydata().tolist() == [32] * 20 and after.get_ydata().tolist() == [16] * 19 + [32]


def test_widths_leaves_room_for_the_others_when_one_is_cut_to_nothing(report):
    report["widths"][0]["after"] = 0
    low, high = widths(report).axes[0].get_ylim()
    assert 8 < low < 16 and 32 < high < 64


def test_scales_counts_every_scale_once_and_takes_the_log_where_there_is_one(report):
    report["scales"]["after"][0] = -50.0  # far out, and negative
    left, right = scales(report).axes
    heights = [patch.get_height() for patch in left.patches]
    assert sum(heights) == pytest.approx(2)  # two distributions, each 100 %
    assert right.get_lines()[0].get_ydata().tolist() == [0.6, 0.6, 0.6]
    report["sparsity"] = []
    assert len(scales(report).axes) == 1


def test_targets_of_rounds_bear_their_units(report):
    asked, achieved = {"flops": 0.5, "size_mb": 2.5, "latency_ms": 12.0}, {"flops": 0.49, "size_mb": 2.4}
    row = {"round": 1, "asked": asked, "achieved": achieved, "map50_95_cut": 0.5, "map50_95_finetuned": 0.6}
    report["iterations"] = {"map50_95_original": 0.6, "split": "val", "stopped": None, "rounds": [row]}
    cells = line(markdown(report), "| 1 |").split(" | ")
    assert cells[1:3] == ["flops ×0.500, 2.50 MB, 12.0 ms", "flops ×0.490, 2.40 MB"]
