"""The scan: true to the detector, kept over a kill, and what `prune` makes of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import Drawn
from tiny import PX, contents, refused, run

from yolo_slim import SlimError, checkpoint, prune, record
from yolo_slim.channels import Plan, trace
from yolo_slim.config import check, read_config
from yolo_slim.data.batches import Batches
from yolo_slim.importance import Evidence
from yolo_slim.measure.loss import detection_loss
from yolo_slim.pruning.choose import Findings, choose, curves_in
from yolo_slim.stages import sensitivity as stage

pytest_plugins = ["tiny"]

RATIOS = [0.3, 0.6, 0.9]


def words(original: Path, data: Path, runs: Path, *more: str) -> list[str]:
    scan = [f"prune.sensitivity.ratios={RATIOS}", "prune.sensitivity.images=4", "prune.criterion=l1"]
    given = [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={runs}", "sparse_train.epochs=0"]
    return [*given, *scan, "prune.min_channels=4", "prune.round_to=1", "prune.calib_images=4", *more]


@pytest.fixture(scope="module")
def scanned(original: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder in which `sensitivity` has been done. Read it only."""
    runs = tmp_path_factory.mktemp("scanned") / "runs"
    before = original.read_bytes()
    answer = run("sensitivity", *words(original, data, runs))
    assert answer.code == 0, answer
    assert "groups cost less than 1% of the loss" in " ".join(answer.out.split())
    assert original.read_bytes() == before
    return runs


def read(runs: Path) -> dict:
    return json.loads((runs / "slim" / "sensitivity" / "sensitivity.json").read_text())


def test_every_free_group_at_every_ratio(scanned, loaded):
    scan, free = read(scanned), trace(loaded, PX).free
    assert [(g["group"], g["channels"]) for g in scan["groups"]] == [(g.name, g.size) for g in free]
    for group in scan["groups"]:
        assert [row["ratio"] for row in group["rows"]] == RATIOS
        assert [row["removed"] for row in group["rows"]] == [int(r * group["channels"] + 1e-9) for r in RATIOS]
        assert all(np.isfinite(row["value"]) for row in group["rows"])
    assert scan["metric"] == "loss"


def test_the_base_is_the_detector_as_it_is(scanned, data, original):
    batches = list(Batches(str(data), PX, 4, split="val", labelled=True))
    detector = checkpoint.load(scanned / "slim" / "original" / "original.pt")
    with torch.no_grad():
        assert read(scanned)["base"] == pytest.approx(float(detection_loss(detector, batches[0])), rel=1e-6)


def test_a_picture_is_drawn(scanned):
    found = Drawn((scanned / "slim" / "sensitivity" / "sensitivity.svg").read_text(encoding="utf-8"))
    cells = [each for each in found.root.iter("rect") if each.get("class") != "card"]
    groups = read(scanned)["groups"]
    assert found.width > 400 and len(cells) == len(groups) * len(RATIOS) and len({c[0].text for c in cells}) > 24


def test_a_second_scan_does_nothing_and_another_image_count_does_it_again(scanned, original, data, tmp_path):
    before = contents(scanned)
    assert "done before" in run("sensitivity", *words(original, data, scanned)).out
    assert contents(scanned) == before
    tolerant = run("sensitivity", *words(original, data, scanned, "prune.sensitivity.tolerance=0.5"))
    assert "done before" in tolerant.out, "the tolerance is of the plan, not of the scan"


def test_a_kill_keeps_the_groups_that_were_measured(scanned, original, data, tmp_path, monkeypatch):
    """The next run measures the rest, and comes to the same numbers."""
    evaluated, worth = [], stage._worth

    def dying(after: int):
        def make(*given):
            inner = worth(*given)

            def value(detector):
                if len(evaluated) == after:
                    raise KeyboardInterrupt
                evaluated.append(1)
                return inner(detector)

            return value

        return make

    runs = tmp_path / "runs"
    monkeypatch.setattr(stage, "_worth", dying(8))
    assert run("sensitivity", *words(original, data, runs)).code == 130
    assert len(read(runs)["groups"]) == 2 and record.read(runs / "slim" / "sensitivity") is None
    evaluated.clear()
    monkeypatch.setattr(stage, "_worth", dying(10**6))
    answer = run("sensitivity", *words(original, data, runs))
    assert answer.code == 0 and "2 groups were measured before" in answer.out
    assert len(evaluated) == len(RATIOS) * (len(read(scanned)["groups"]) - 2)
    assert {**read(runs), "made_from": None} == {**read(scanned), "made_from": None}


def test_a_scan_begun_with_other_settings_is_not_gone_on_with(tmp_path):
    file = tmp_path / "sensitivity.json"
    for content, expected in (('{"made_from": 1}', True), ('{"made_from": 2}', False), ('{"made', False)):
        file.write_text(content)
        assert bool(stage._begun(file, 1)) == expected


def test_silenced_channels_that_nobody_reads_cost_nothing_and_the_detector_stays(detector, data, tmp_path):
    """Their readers multiply by zero, and ratio 0 is the base. The detector is left as it was."""
    wiring = trace(detector, PX)
    group = next(g for g in wiring.free[::-1] if len(g.producers) == 1 and g.size >= 16)  # near the predictions
    idle = group.channels[: group.size // 2]
    with torch.no_grad():
        for name in group.consumers:
            unread = torch.as_tensor(np.isin(wiring.convs[name].inputs, idle))
            detector.get_submodule(name).weight[:, unread] = 0
        detector.get_submodule(group.producers[0]).weight[: group.size // 2] *= 1e-3  # the lowest by l1
    state = {k: v.clone() for k, v in detector.state_dict().items()}
    section = {"criterion": "l1", "sensitivity": {"ratios": [0, 0.25, 0.5, 0.75], "images": 4}}
    config = check({"model": "x.pt", "data": str(data), "imgsz": PX, "prune": section})
    scan = {"base": None, "groups": []}
    stage.measure(config, detector, scan, tmp_path / "scan.json")
    rows = next(g["rows"] for g in scan["groups"] if g["group"] == group.name)
    assert all((g["rows"][0]["removed"], g["rows"][0]["value"]) == (0, scan["base"]) for g in scan["groups"])
    assert [row["value"] for row in rows[1:3]] == pytest.approx([scan["base"]] * 2, rel=1e-6)
    assert rows[3]["value"] != pytest.approx(scan["base"], rel=1e-4)
    assert all(torch.equal(v, state[k]) for k, v in detector.state_dict().items())


def test_map_is_measured_on_val(original, data, tmp_path, monkeypatch):
    seen = []

    def accuracy(weights, data, imgsz, split, device):
        seen.append(split)
        return {"map50_95": 0.5 - 0.01 * len(seen)}

    monkeypatch.setattr(stage, "accuracy", accuracy)
    ratios = [0.5]
    more = ["prune.sensitivity.metric=map50_95", f"prune.sensitivity.ratios={ratios}"]
    answer = run("sensitivity", *words(original, data, tmp_path, *more))
    assert answer.code == 0, answer
    assert "whole val split" in answer.out
    assert set(seen) == {"val"} and read(tmp_path)["base"] == pytest.approx(0.49)
    config = check({"model": str(original), "data": str(data), "imgsz": PX, "runs": str(tmp_path)})
    settings = {"sensitivity": {"ratios": ratios, "images": 4, "metric": "map50_95"}, "calib_images": 4}
    chosen = config.prune.model_validate({**settings, "criterion": "l1"})
    sparse = config.sparse_train.model_copy(update={"epochs": 0})
    curves = curves_in(stage.scanned(config.model_copy(update={"prune": chosen, "sparse_train": sparse})))
    first = next(iter(curves.values()))
    assert first.worse[0] == pytest.approx(0.01), "points lost count up"


@pytest.mark.parametrize(
    ("budget", "key", "most"),
    [
        pytest.param("prune.target={flops: 0.6}", "flops", 0.6, id="a target"),
        pytest.param("prune.ratio=0.3", "channels", 0.7, id="a ratio"),
    ],
)
def test_prune_by_a_scan_meets_the_budget(scanned, original, data, budget, key, most):
    answer = run("prune", *words(original, data, scanned, "prune.solver=sensitivity", budget))
    assert answer.code == 0, answer
    assert "sensitivity: done before" in answer.out
    done = record.read(scanned / "slim" / "pruned")
    assert done.details["achieved"][key] <= most + 1e-3
    assert any(name.endswith("sensitivity.json") for name in record.read(scanned / "slim" / "plan").inputs)


def test_prune_to_a_tolerance_scans_first_where_there_is_no_scan(original, data, tmp_path, scanned):
    """Each group loses the most that the curve allows: here, by what the scan of another run has found."""
    more = ["prune.solver=sensitivity", "prune.sensitivity.tolerance=0.05"]
    answer = run("prune", *words(original, data, tmp_path / "runs", *more))
    assert answer.code == 0, answer
    assert (tmp_path / "runs" / "slim" / "sensitivity" / "stage.json").is_file()
    scan, done = read(scanned), record.read(tmp_path / "runs" / "slim" / "pruned")
    widths = {w["layer"]: w["after"] for w in done.details["widths"]}
    for group in scan["groups"]:
        stays = widths[group["group"]]
        for row in group["rows"]:
            if max(r["value"] for r in group["rows"] if r["ratio"] <= row["ratio"]) > scan["base"] + 0.05:
                assert stays > group["channels"] * (1 - row["ratio"])
    assert sum(widths.values()) < sum(w["before"] for w in done.details["widths"])


SOLVER = ["prune.solver=sensitivity", "prune.target={flops: 0.6}", "prune.reconstruct=none"]
QUICK = "{batch: 4, nbs: 4, optimizer: SGD, warmup_epochs: 0, workers: 0}"


@pytest.mark.parametrize("mode", ["targeted", "soft"])
def test_a_landing_goes_by_a_scan_of_the_original(original, data, tmp_path, scanned, mode):
    """The scan is made before training, and says what lands; pruning follows the plan without another."""
    more = [*SOLVER, "sparse_train.epochs=1", "sparse_train.min_steps=0", f"sparse_train.mode={mode}"]
    more.append(f"sparse_train.train={QUICK}")
    if mode == "soft":  # with one that was made before
        shutil.copytree(scanned, tmp_path, dirs_exist_ok=True)
    trained = run("sparse-train", *words(original, data, tmp_path, *more))
    assert trained.code == 0, trained
    assert read(tmp_path)["groups"] == read(scanned)["groups"]
    sparse = record.read(tmp_path / "slim" / "sparse")
    chooser = record.read(tmp_path / "slim" / "plan") if mode == "targeted" else sparse
    assert any(name.endswith("sensitivity.json") for name in chooser.inputs)
    before = contents(tmp_path / "slim" / "sensitivity")
    pruned = run("prune", *words(original, data, tmp_path, *more))
    assert pruned.code == 0, pruned
    assert record.read(tmp_path / "slim" / "pruned").details["achieved"]["flops"] <= 0.6
    assert "sensitivity: done before" in run("sensitivity", *words(original, data, tmp_path, *more)).out
    assert contents(tmp_path / "slim" / "sensitivity") == before
    if mode == "targeted":  # it chooses once, in the original
        chosen = read_config(None, words(original, data, tmp_path, *SOLVER)).prune
        detector = checkpoint.load(original)
        curves = curves_in(tmp_path / "slim" / "sensitivity" / "sensitivity.json")
        found = choose(detector, trace(detector, PX), chosen, Evidence(), found=Findings(curves))
        plan = json.loads(sparse.output(tmp_path / "slim" / "sparse", "plan").read_text())["outputs"]
        assert plan == Plan.of(trace(detector, PX), found.kept).outputs


def test_every_round_goes_by_the_scan_of_the_first(original, data, tmp_path, scanned):
    more = [*SOLVER, "prune.iterations={rounds: 2, epochs: 1}", f"finetune.train={QUICK}"]
    shutil.copytree(scanned, tmp_path, dirs_exist_ok=True)
    answer = run("prune", *words(original, data, tmp_path, *more))
    assert answer.code == 0, answer
    assert "sensitivity: done before" in answer.out
    for k in (1, 2):
        plan, cut = (record.read(tmp_path / "slim" / "pruned" / "rounds" / str(k) / name) for name in ("plan", "cut"))
        assert any(name.endswith("sensitivity.json") for name in plan.inputs)
        assert cut.details["achieved"]["flops"] <= 0.6 ** (k / 2)


def test_a_sweep_scans_once_for_each_criterion(original, data, tmp_path, scanned):
    grid = ["sweep.criteria=[l1, random]", "sweep.flops=[0.8]", "sweep.recovery=[none]", "sweep.workers=1"]
    more = [*SOLVER, "prune.sensitivity.tolerance=0.5", "report.latency_runs=1", *grid]
    answer = run("sweep", *words(original, data, tmp_path, *more))
    assert answer.code == 0, answer
    sweep = tmp_path / "slim" / "sweep"
    rows = json.loads((sweep / "sweep.json").read_text())["rows"]
    assert [row["error"] for row in rows] == [None, None] and all(row["flops_achieved"] <= 0.8 for row in rows)
    scans = {name: json.loads((sweep / "scans" / name / stage.SCAN).read_text()) for name in ("l1", "random")}
    assert scans["l1"]["groups"] == read(scanned)["groups"] != scans["random"]["groups"]


def test_the_python_function_says_who_makes_the_scan(loaded):
    with pytest.raises(SlimError, match=r"goes by a scan.*`yolo-slim prune` makes it"):
        prune(loaded, imgsz=PX, solver="sensitivity", ratio=0.3)


def test_a_scan_needs_data(original, tmp_path):
    refused(run("sensitivity", f"model={original}", f"imgsz={PX}", f"runs={tmp_path}"), "data=path/to/data.yaml")


def test_a_tolerance_beside_a_target_is_refused(original, data, scanned):
    more = ["prune.solver=sensitivity", "prune.sensitivity.tolerance=0.05", "prune.target.flops=0.5"]
    refused(run("prune", *words(original, data, scanned, *more)), "prune.sensitivity.tolerance", "choose one")


@pytest.mark.parametrize("solver", ["threshold", "knapsack"])
@pytest.mark.parametrize("megabytes", [0.4, 0.3])
def test_a_file_is_as_large_as_asked(loaded, tmp_path, solver, megabytes):
    """What is promised is what the disk says, to 2 %, and no more."""
    pruned = prune(loaded, imgsz=PX, criterion="l1", solver=solver, target={"size_mb": megabytes}, round_to=1)
    size = checkpoint.save(pruned.model, tmp_path / "slim.pt").stat().st_size / 1e6
    assert size <= pruned.cost.achieved["size_mb"] * 1.001 <= megabytes * 1.001
    assert size == pytest.approx(pruned.cost.achieved["size_mb"], rel=0.03)
