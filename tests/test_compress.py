"""The list of methods: what may stand in it and in which order, and what a run makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import PX, run

from yolo_slim import checkpoint
from yolo_slim.compress import METHODS, Material
from yolo_slim.config import check
from yolo_slim.errors import SlimError
from yolo_slim.runs.given import complete
from yolo_slim.stages.chain import chain_of

pytest_plugins = ["tiny"]


def settings(original: Path, *compress: object, **more: object) -> dict:
    return {"model": str(original), "imgsz": PX, "compress": list(compress), **more}


def chained(original: Path, *compress: object):
    return chain_of(complete(check(settings(original, *compress))))


def test_channel_pruning_is_all_that_is_done_by_default(original):
    chain = chain_of(complete(check({"model": str(original), "imgsz": PX})))
    assert chain.prunes and not chain.before and not chain.behind


def test_what_stands_before_prune_comes_before_it(original):
    chain = chained(original, {"low_rank": {"energy": 0.9}}, "prune", {"weights": {"sparsity": 0.3}}, "cluster")
    assert [turn.name for turn in chain.before] == ["1_low_rank"]
    assert [turn.name for turn in chain.behind] == ["3_weights", "4_cluster"]
    assert chain.prunes and chain.before[0].method.energy == 0.9 and chain.behind[0].method.sparsity == 0.3


def test_without_prune_no_channels_go(original):
    chain = chained(original, "weights")
    assert not chain.prunes and [turn.name for turn in chain.behind] == ["1_weights"]


def test_settings_of_prune_may_stand_in_the_list(original):
    found = check(settings(original, {"prune": {"target": {"flops": 0.5}}}, "weights"))
    assert found.prune.target.flops == 0.5 and found.compress == ["prune", "weights"]


@pytest.mark.parametrize(
    ("compress", "said"),
    [
        (["nothing_such"], "no method 'nothing_such'; expected prune, weights"),
        ({"weights": {}}, "expected a list of methods"),
        (["prune", "prune"], "more than once"),
        ([{"weights": {}, "prune": {}}], "expected a method's name"),
        ([{"weights": 3}], "weights: expected its settings"),
        ([{"weights": {"epochs": -1}}], "epochs"),
        ([{"weights": {"sparsty": 0.3}}], "weights.sparsty: unknown setting; did you mean sparsity?"),
        ([{"weights": {"sparsity": 2}}], "sparsity: expected a share"),
        ([{"weights": {"sparsity": "much"}}], "weights.sparsity"),
        (["weights", "prune"], "prune comes behind weights"),
        (["prune", "cluster", "low_rank"], "low_rank comes behind cluster"),
        ([{"weights": {"schedule": "cubic"}}], "epochs"),
        ([{"weights": {"schedule": "cubic", "epochs": 2, "match": {"steps": 2}}}], "Leave match out"),
    ],
)
def test_a_list_that_is_wrong_is_refused_before_anything_is_written(original, tmp_path, compress, said):
    answer = run("compress", f"model={original}", f"runs={tmp_path}", f"imgsz={PX}", f"compress={json.dumps(compress)}")
    assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err, answer
    assert not any(tmp_path.iterdir())


def test_without_a_method_behind_prune_there_is_nothing_to_compress(original, tmp_path):
    answer = run("compress", f"model={original}", f"runs={tmp_path}", f"imgsz={PX}")
    assert answer.code == 2 and "names no method behind prune" in answer.err


def test_what_is_to_be_pruned_first_is_asked_for(original, tmp_path):
    answer = run("compress", f"model={original}", f"runs={tmp_path}", f"imgsz={PX}", "compress=[prune, weights]")
    assert answer.code == 2 and "run `yolo-slim prune`" in answer.err


def test_training_asks_for_data_before_anything_is_made(original, tmp_path):
    answer = run(
        "compress", f"model={original}", f"runs={tmp_path}", f"imgsz={PX}", "compress=[{weights: {epochs: 2}}]"
    )
    assert answer.code == 2 and "data=" in answer.err
    assert not (tmp_path / "slim" / "compressed").exists()


def test_pictures_alone_are_enough_for_what_is_not_trained(original, data, tmp_path):
    words = (f"model={original}", f"runs={tmp_path}", f"imgsz={PX}", "prune.calib_images=4")
    answer = run("compress", *words, f"images={data.parent / 'images' / 'train'}", "compress=[{weights: {}}, cluster]")
    assert answer.code == 0, answer
    assert (tmp_path / "slim" / "compressed" / "compressed.pt").exists()
    nothing = run("compress", *words, "name=nothing", "compress=[{weights: {}}, cluster]")
    assert nothing.code == 0, nothing


CUT = ("prune.target.flops=0.7", "prune.min_channels=4", "prune.round_to=1", "prune.calib_images=4")


def test_methods_follow_one_another_in_folders_of_their_own(original, data, tmp_path):
    words = (f"model={original}", f"data={data}", f"runs={tmp_path}", f"imgsz={PX}", *CUT)
    steps = "compress=[prune, {weights: {sparsity: 0.4}}, {cluster: {bits: 4}}]"
    assert run("prune", *words, "sparse_train.epochs=0", steps).code == 0
    answer = run("compress", *words, steps)
    assert answer.code == 0, answer
    folder = tmp_path / "slim" / "compressed"
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {"2_weights", "3_cluster"}
    final, masked = checkpoint.load(folder / "compressed.pt"), checkpoint.load(folder / "2_weights" / "step.pt")
    zeros = total = 0
    for name, value in masked.state_dict().items():
        if value.dim() == 4:
            assert torch.equal(value == 0, final.state_dict()[name] == 0), name
            zeros, total = zeros + int((value == 0).sum()), total + value.numel()
    assert zeros > 0.2 * total
    done = json.loads((folder / "stage.json").read_text())
    assert done["details"]["steps"] == ["compressed/2_weights", "compressed/3_cluster"]
    assert done["metrics"]["map50_95"] is not None
    spent = json.loads((folder / "3_cluster" / "stage.json").read_text())["details"]["bytes"]
    assert spent["coded"] < spent["clustered"] < spent["int8"] < spent["fp16"] < spent["fp32"]
    again = run("compress", *words, steps)
    assert again.out.count("nothing has changed") == 3
    other = run("compress", *words, "compress=[prune, {weights: {sparsity: 0.4}}, {cluster: {bits: 3}}]")
    assert other.code == 0 and "compressed/2_weights: done before" in other.out, other.out
    report = run("report", *words, "report.latency_runs=1")
    assert report.code == 0
    rows = json.loads((tmp_path / "slim" / "report" / "report.json").read_text())["rows"]
    assert [row["stage"] for row in rows][-1] == "compressed"


def test_what_is_made_is_held_while_it_is_trained(original, data, tmp_path):
    words = (f"model={original}", f"data={data}", f"runs={tmp_path}", f"imgsz={PX}", "prune.calib_images=4")
    steps = "compress=[{weights: {pattern: '2:4', epochs: 1, train: {batch: 4}}}, {cluster: {bits: 4, epochs: 1}}]"
    answer = run("compress", *words, steps)
    assert answer.code == 0, answer
    assert run("report", *words, "report.latency_runs=1").code == 0
    rows = json.loads((tmp_path / "slim" / "report" / "report.json").read_text())["rows"]
    assert [row["stage"] for row in rows] == ["original", "compressed/1_weights/trained", "compressed"]
    final = checkpoint.load(tmp_path / "slim" / "compressed" / "compressed.pt")
    plain = checkpoint.load(original).state_dict()
    plan = json.loads((tmp_path / "slim" / "compressed" / "1_weights" / "trained" / "stage.json").read_text())
    assert plan["settings"]["epochs"] == 1
    changed = 0
    for name, value in final.state_dict().items():
        if value.dim() == 4 and value.shape[1] % 4 == 0 and name != "model.0.conv.weight" and ".10." not in name:
            groups = value.unflatten(1, (-1, 4))
            assert ((groups != 0).sum(2) <= 2).all(), name
            assert len(value[value != 0].unique()) <= 16, name
            changed += int(not torch.equal(value, plain[name]))
    assert changed > 5


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param("schedule: cubic, sparsity: 0.6", id="cubic"),
        pytest.param("pattern: stripe, criterion: skeleton, sparsity: 0.3, strength: 3", id="skeleton"),
    ],
)
def test_what_training_has_decided_is_held_from_then_on(original, data, tmp_path, settings):
    """By what comes behind it: methods, and their trainings."""
    words = (f"model={original}", f"data={data}", f"runs={tmp_path}", f"imgsz={PX}", "prune.calib_images=4")
    first = f"{{weights: {{{settings}, epochs: 2, train: {{batch: 2, nbs: 2}}}}}}"
    steps = f"compress=[{first}, {{cluster: {{bits: 4, epochs: 1}}}}]"
    answer = run("compress", *words, steps)
    assert answer.code == 0, answer
    folder = tmp_path / "slim" / "compressed"
    whole, one, other = (
        checkpoint.load(path).state_dict()
        for path in (original, folder / "1_weights" / "trained" / "step.pt", folder / "compressed.pt")
    )
    told = json.loads((folder / "1_weights" / "trained" / "stage.json").read_text())
    share = told["details"]["plan"]["sparsity"]
    assert share == pytest.approx(0.3 if "stripe" in settings else 0.6, abs=0.01)
    assert one.keys() == whole.keys()
    zeros = 0
    for name, value in one.items():
        if value.dim() == 4:
            assert torch.equal(value == 0, other[name] == 0), name
            zeros += int((value == 0).sum()) - int((whole[name] == 0).sum())
    assert zeros == pytest.approx(told["details"]["plan"]["zeros"], abs=10)
    again = run("compress", *words, steps)
    assert again.out.count("nothing has changed") + again.out.count("done before") >= 3, again.out


def test_low_rank_comes_before_the_cut_and_the_cut_reads_it(original, data, tmp_path):
    words = (f"model={original}", f"data={data}", f"runs={tmp_path}", f"imgsz={PX}", *CUT)
    steps = "compress=[{low_rank: {energy: 0.6, multiple: 1}}, prune]"
    answer = run("prune", *words, "sparse_train.epochs=0", steps)
    assert answer.code == 0, answer
    reshaped = checkpoint.load(tmp_path / "slim" / "reshaped" / "reshaped.pt")
    pruned = checkpoint.load(tmp_path / "slim" / "pruned" / "pruned.pt")
    assert len(list(pruned.modules())) == len(list(reshaped.modules())) > len(list(checkpoint.load(original).modules()))
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in reshaped.parameters())
    assert json.loads((tmp_path / "slim" / "pruned" / "stage.json").read_text())["details"]["masked_vs_cut"] < 1e-5


def test_every_method_says_what_it_does_and_what_runtimes_make_of_it():
    for name, method in METHODS.items():
        assert method.help and method.speed and isinstance(method.changes_layers, bool), name


@pytest.mark.parametrize("name", ["weights", "low_rank", "compact", "quantize", "cluster"])
def test_layers_are_named_alike_in_every_method(original, name):
    """By patterns, as prune.exclude has them; a name stands for all below it."""
    detector, material = checkpoint.load(original), Material(PX)
    options = {"low_rank": {"how": "spatial_svd", "energy": 0.4, "multiple": 1}}.get(name, {})
    method = METHODS[name](layers=("model.1", "model.[3]", "model.10.cv2.1.*"), **options)
    found = {*method.plan(detector, material).layers}
    assert {"model.1.conv", "model.3.conv", "model.10.cv2.1.0.conv"} <= found
    assert all(name.startswith(("model.1.", "model.3.", "model.10.cv2.1.")) for name in found)
    others = method.plan(detector, material).kept
    assert others["model.2.conv"] == others["model.0.conv"] == "not among the layers asked for"
    with pytest.raises(SlimError, match=r"layers: model\.44 matches no layer; did you mean model\."):
        METHODS[name](layers=("model.44",), **options).plan(detector, material)
    few = METHODS[name](**options).plan(detector, material)
    assert few.kept["model.0.conv"] == few.kept["model.10.cv2.0.2"] == "reads the image, or predicts"
    more = METHODS[name](first=True, predictions=True, **options).plan(detector, material)
    assert "reads the image, or predicts" not in more.kept.values()


def test_a_method_may_be_followed_by_learning_from_the_original(original, data, tmp_path):
    words = (f"model={original}", f"data={data}", f"runs={tmp_path}", f"imgsz={PX}", "prune.calib_images=4")
    steps = (
        "compress=[{low_rank: {energy: 0.7, multiple: 1, match: {steps: 3, batch: 2}}}, "
        "{weights: {sparsity: 0.5, match: {steps: 3, batch: 2}}}]"
    )
    answer = run("compress", *words, steps)
    assert answer.code == 0, answer
    folder = tmp_path / "slim" / "compressed"
    for step in ("1_low_rank", "2_weights"):
        told = json.loads((folder / step / "matched" / "stage.json").read_text())["details"]
        assert told["steps"] == 3 and len(told["agreement"]) > 1
    masked = checkpoint.load(folder / "2_weights" / "step.pt").state_dict()
    final = checkpoint.load(folder / "compressed.pt").state_dict()
    for name, value in masked.items():
        assert torch.equal(value == 0, final[name] == 0) or value.dim() != 4, name
