"""report.html: every number of report.json is on it, nothing is fetched, and a browser draws it without complaint."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny import PX, colours, run

from yolo_slim import record
from yolo_slim.record import Record
from yolo_slim.report import markdown, most_changed, page, picture, summary
from yolo_slim.report.changes import changed, iou, same
from yolo_slim.report.compared import by_class, classes, quickest, timed
from yolo_slim.report.numbers import digits

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
    for much in ("×0.47", "×0.50", "×1.67", "−2.4"):
        assert f" {much} " in top
    assert "parameters ×0.47 2.00 → 0.940 M" in top


def test_a_runtime_timed_on_a_busy_machine_is_told_of_only_where_all_were(whole, tmp_path):
    rows = whole["bench"]["rows"]
    name, before, after = quickest(whole)
    for row in rows:
        if row["runtime"].startswith(name):
            row["latency_ms"] |= {"p10": 1.0, "p90": 2.1}
    other, *_ = quickest(whole)
    assert name not in other and "busy" not in other
    for row in rows:
        row["latency_ms"] |= {"p10": 1.0, "p90": 2.1}
    assert quickest(whole) == (f"{name} on a busy machine", before, after)
    assert "onnxruntime on a busy machine" in seen(page(whole, tmp_path))


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        pytest.param({}, ("onnxruntime", 10.0, 6.0), id="one image at a time, whatever more at once is"),
        pytest.param({("openvino", 1, "slim"): 5.9}, ("openvino", 8.0, 5.9), id="where the slim detector is quickest"),
        pytest.param(None, ("PyTorch", 40.0, 30.0), id="no benchmark: as the stages were timed"),
    ],
)
def test_how_much_faster_is_told_of_the_quickest_runtime(ms, said, whole, tmp_path):
    for row in whole["bench"]["rows"]:
        row["latency_ms"]["median"] = (ms or {}).get(
            (row["runtime"], row["batch"], row["stage"]), row["latency_ms"]["median"]
        )
    whole["bench"] = whole["bench"] if ms is not None else None
    runtime, before, after = said
    assert quickest(whole) == said
    way = f"{digits(before)} → {digits(after)} ms, {runtime}"
    assert way in seen(page(whole, tmp_path)) and way in summary(whole)


def test_a_slower_detector_is_not_called_faster(whole, tmp_path):
    whole["rows"][1]["latency_ms"]["median"], whole["bench"] = 50.0, None
    text = seen(page(whole, tmp_path))
    assert "the speed: slower ×0.80 40.0 → 50.0 ms" in text and "faster" not in text


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
    whole["bench"] = None
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
    assert "| onnxruntime | 2 | 8 | slim | 48.0 | 43.2–57.6 | ×0.60 |" in text
    assert "| 3.jpg | 2 | 2 | 1 | 1 |" in text


def test_what_became_speed_is_said_and_on_what_it_was_timed(whole, tmp_path):
    said = ["Of the FLOPs cut (×0.50) became speed: 80% in onnxruntime (batch 1, 1.67×)"]
    said += ["In openvino, furthest behind their FLOPs: model.7 (4.00 → 3.50 ms, FLOPs ×0.50)."]
    said += ["on a chip, 2 threads, images of 320 px, float32", "6 runs each, in onnxruntime 1.2, openvino 1.2"]
    for text in (seen(page(whole, tmp_path)), markdown(whole)):
        assert [words for words in said if words not in text] == []


def test_several_images_at_a_time_are_named_in_the_headline(whole, tmp_path):
    whole["bench"]["rows"] = [row for row in whole["bench"]["rows"] if row["batch"] == 8]
    assert "ms, onnxruntime, batch 8" in seen(page(whole, tmp_path)) and "onnxruntime, batch 8)" in summary(whole)


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
    assert "slim.onnx fp32 3.50 onnxruntime 2.0e-05, 3.0e-05 (opencv) 0.571 (+0.00)" in found
    assert found.endswith("slim_int8_openvino_model int8 1.10 openvino – 0.566 (−0.52)")


def test_pictures_say_what_was_lost_and_what_is_new(whole, tmp_path):
    found = section(page(whole, tmp_path), "pictures")
    assert found.count("data:image/jpeg;base64,") == found.count("<use ") == 4
    assert found.count('class="box lost"') == found.count('class="box new"') == 4
    assert found.count('class="box same"') == 8
    assert 'aria-label="0.jpg, original: 2 boxes, 1 lost"' in found and "1 more" in found


def test_a_report_of_one_stage_without_data_is_a_page_too(report, tmp_path):
    report["rows"] = [{**report["rows"][0], "map50": None, "map50_95": None}]
    report |= {"split": None, "data": None, "widths": [], "scales": None, "sparsity": [], "export": None}
    text = page(report, tmp_path)
    assert "nothing to compare yet" in text and "mAP: not measured" in text and "None" not in text
    assert re.findall(r'<section id="(\w+)"', text) == ["results", "worth", "how"]


# ---------------------------------------------------------------------------------------------------------------------
# What is not on it


def test_names_are_text_and_never_markup(whole, tmp_path):
    before = page(whole, tmp_path)
    whole["name"] = whole["data"] = whole["pictures"]["shown"][0]["name"] = NASTY
    whole["rows"][1]["note"] = whole["widths"][0]["layer"] = whole["widths"][-1]["reason"] = NASTY
    whole["sweep"]["rows"][0]["criterion"] = NASTY
    for row in whole["bench"]["rows"][:2]:
        row["runtime"] = row["version"] = row["device"] = NASTY
    whole["export"]["files"][0] |= {"file": NASTY, "runtime": NASTY}
    for row in whole["rows"]:
        row["per_class"] = [{"id": 0, "name": NASTY, "images": 1, "labels": 1, "ap50_95": 0.5}]
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
    assert iou([0, 0, 2, 2], [1, 1, 3, 3]) == pytest.approx(1 / 7)


def test_pictures_that_changed_most_come_first_and_scores_decide_ties():
    one, sure = box("a", 0.5, 0, 0, 9, 9), box("a", 0.8, 0, 0, 9, 9)
    cases = {
        "none": ([one], [one]),
        "weak": ([one], []),
        "strong": ([], [sure]),
        "two": ([one], [box("b", 0.3, 0, 0, 9, 9)]),
    }
    pictures = [picture(f"x/{name}.jpg", (9, 9), *boxes) for name, boxes in cases.items()]
    assert [p["name"] for p in most_changed(pictures, 4)] == ["two.jpg", "strong.jpg", "weak.jpg", "none.jpg"]
    assert [len(changed(p)) for p in pictures] == [0, 1, 1, 2]
    assert len(most_changed(pictures, 2)) == 2


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
        same = metrics.keys() - {"file_mb", "replicates"}
        assert {k: row[k] for k in same} == {k: metrics[k] for k in same} and "f1_at_25" in same
    shown = found["pictures"]["shown"]
    assert found["pictures"]["of"] == len(shown) == 4
    assert sorted(p.name for p in (folder / "images").iterdir()) == [f"{i:02d}.jpg" for i in range(4)]
    assert max(max(b["xyxy"]) for p in shown for b in p["original"]) <= PX
    counts = [len(changed(p)) for p in shown]
    assert counts == sorted(counts, reverse=True) and counts[0] > 0
    assert all(p["name"] in text for p in shown)
    assert found["bench"] == whole["bench"] and found["sweep"] == whole["sweep"] and "openvino" in text


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
score.value = 0.85;
score.dispatchEvent(new Event("input"));
const left = document.querySelectorAll(".box:not(.off)").length;
document.querySelector(".panes").click();
const large = document.getElementById("large");
const panes = large.open ? large.querySelectorAll("svg").length : 0;
large.close();
const images = [...document.querySelectorAll(".pane image, .pane use")].filter((i) => i.getBBox().width > 0).length;
const wide = document.documentElement.scrollWidth - innerWidth;
const answer = JSON.stringify({ drawn, quiet, tip, off, left, panes, images, wide, width: innerWidth });
document.documentElement.setAttribute("data-checks", answer);
parent.postMessage(answer, "*");
}"""
TALL = 8_000  # higher than the page, and all of it is in the picture
BUDGET = "--virtual-time-budget=4000"  # of a frame's message, too, the page that is printed has to hear
FRAME = """<!DOCTYPE html><body style="margin:0"><iframe src="{}" width="390" height="5200" style="border:0"></iframe>
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
    """The page of `whole` in every way one may look at it; screenshots go to ARTEFACTS."""
    ARTEFACTS.mkdir(exist_ok=True)
    text = page(whole, tmp_path)
    names = ("report", "checked", "broken", "narrow", "still")
    plain, checked, broken, narrow, still = (tmp_path / f"{name}.html" for name in names)
    plain.write_text(text)
    checked.write_text(text.replace("</body>", f"<script>{CHECKS}</script></body>"))
    broken.write_text(text.replace("</body>", "<script>missing()</script><img src='https://a.b/c.png'></body>"))
    narrow.write_text(FRAME.format(checked.name))  # headless windows are no narrower than 500
    still.write_text(text.replace("script-src 'unsafe-inline'; ", ""))  # where no script is allowed to run
    opened = Browser(tmp_path)
    opened.start("desk", checked, "--window-size=1200,900", "--dump-dom", BUDGET)
    opened.start("phone", narrow, "--window-size=500,900", "--dump-dom", BUDGET)
    opened.start("broken", broken, "--dump-dom", BUDGET)
    for name, file, scheme in (("light", plain, 1), ("dark", plain, 0), ("no-script", still, 1)):
        shot = f"--screenshot={ARTEFACTS / f'report-{name}.png'}"
        opened.start(name, file, shot, f"--window-size=1200,{TALL}", f"--blink-settings=preferredColorScheme={scheme}")
    yield opened
    for process in opened.open.values():
        process.kill()


def last_row(picture: np.ndarray) -> int:
    """The lowest row of a picture (H, W, 4) that is not all paper."""
    return int(np.flatnonzero((picture != picture[-1, 0]).any((1, 2)))[-1])


@needs_chromium
def test_a_browser_draws_it_without_complaint(browser: Browser) -> None:
    for name, width in (("desk", 1200), ("phone", 390)):
        dom, console = browser.result(name)
        assert console == [], name
        found = checks(dom)
        assert found["width"] == width and found["wide"] <= 0, "nothing is wider than the window"
        assert len(found["drawn"]) == 12
        for chart in found["drawn"]:
            assert chart["width"] > 250 and chart["height"] > 60 and chart["inside"] == chart["marks"] > 0
        assert found["tip"].startswith("original: 2.200 GFLOPs") and found["off"] == 1
        assert found["quiet"], "an arrow where every series is taken off shows nothing, and breaks nothing"
        assert found["left"] == 2 * 4, "of four boxes a picture, two have a score over 0.85"
        assert found["panes"] == 2 and found["images"] >= 6
    assert len(browser.result("broken")[1]) >= 2, "an error and a picture from elsewhere would have been seen"
    shots = {}
    for name in ("light", "dark", "no-script"):
        console = browser.result(name)[1]
        assert [line for line in console if "inline script" not in line] == []
        assert len(console) == (name == "no-script")
        shots[name] = cv2.cvtColor(cv2.imread(str(ARTEFACTS / f"report-{name}.png")), cv2.COLOR_BGR2BGRA) / 255
        end = last_row(shots[name])
        assert 5200 < end < TALL - 20, f"{name}: the window holds the page to its end"
        assert colours(shots[name][end - 200 : end]) > 20, f"{name}: its last section is there"
    corner = {name: shot[5, 5, :3].mean() for name, shot in shots.items()}
    assert corner["light"] == corner["no-script"] == 1 and corner["dark"] < 0.2
