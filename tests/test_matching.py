"""Recovery by matching: closer to the original, never further, gone on with where it was killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import PX, ROOT, build, contents, refused, run

from yolo_slim import SlimError, checkpoint, prune
from yolo_slim.measure.agreement import disagreement
from yolo_slim.measure.loss import answers
from yolo_slim.mould import duplicate
from yolo_slim.stages import recover as stage
from yolo_slim.training import matching
from yolo_slim.training.matching import Length, Progress, match, shuffled

pytest_plugins = ["tiny"]

CORPUS = ROOT / "tests" / "corpus"
CUT = ("prune.ratio=0.4", "prune.min_channels=4", "prune.round_to=1", "prune.calib_images=4", "prune.reconstruct=none")
LEFT_OUT = ("bench=null", "report.latency_runs=1")


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch(step: int) -> torch.Tensor:
    return images(4, 3, PX, PX, seed=step + 1)


@pytest.fixture(scope="module")
def pair(loaded):
    """A slim detector and the one that it was cut from."""
    return prune(loaded, imgsz=PX, ratio=0.4, round_to=1, min_channels=4, criterion="l1").model, loaded


def matched(pair, **options):
    return match(*pair, batch, [images(4, 3, PX, PX)], options.pop("length", Length(steps=20)), PX, **options)


def gap(slim, original) -> float:
    with torch.no_grad():
        shown = images(4, 3, PX, PX)
        return float(sum(disagreement(answers(slim, shown), answers(original, shown))))


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_it_comes_closer_to_the_original(pair):
    before = [{name: t.clone() for name, t in d.state_dict().items()} for d in pair]
    best, at = matched(pair)
    assert gap(best, pair[1]) == pytest.approx(at.least) and at.least < 0.8 * gap(*pair)
    assert at.step == 20 and len(at.history) == 1 + matching.LOOKS
    for detector, state in zip(pair, before, strict=True):
        assert all(torch.equal(state[name], t) for name, t in detector.state_dict().items()), "both are left alone"


@pytest.mark.parametrize("sure", [-20.0, 20.0])
def test_in_half_precision_a_score_is_never_0_or_1(loaded, sure):
    """bfloat16 knows nothing between 0.996 and 1: a divergence from there would be infinite."""
    detector = duplicate(loaded).eval()
    for branch in detector.model[-1].cv3:
        torch.nn.init.constant_(branch[-1].bias, sure)
    with torch.autocast("cpu", torch.bfloat16):
        said = answers(detector, images(1, 3, PX, PX))
    assert said.scores.dtype == said.boxes.dtype == torch.float32
    assert said.scores.min() > 0 and said.scores.max() < 1
    assert all(gap.isfinite() for gap in disagreement(said, said._replace(scores=1 - said.scores)))


def test_statistics_of_batch_norm_stay(pair):
    best, _ = matched(pair)
    ours, theirs = (dict(d.named_buffers()) for d in (best, pair[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def starting(pair, rate: float) -> Progress:
    state = {name: t.clone() for name, t in pair[0].state_dict().items()}
    return Progress(rate=rate, history=[(0, gap(*pair))], live=state, best=state)


@pytest.mark.parametrize("rate", [1.0, float("nan")])
def test_it_never_ends_further_away_than_it_began(pair, rate):
    best, _ = matched(pair, begun=starting(pair, rate))
    assert gap(best, pair[1]) <= gap(*pair) * (1 + 1e-6)


def test_where_it_does_harm_it_goes_back_and_goes_slower(pair):
    _, at = matched(pair, begun=starting(pair, 0.3), length=Length(steps=10))
    assert at.rate < 0.3 and at.history[1][1] > at.history[0][1], "one step of that size is too far"


def test_a_detector_that_lost_nothing_stays_as_it_is(loaded):
    whole = prune(loaded, imgsz=PX, ratio=0.4, round_to=1, min_channels=4, criterion="l1").model
    best, at = matched((whole, whole))
    assert at.history[0][1] == pytest.approx(0, abs=1e-6) and same(best, whole)


def test_one_that_was_stopped_ends_where_the_other_does(pair):
    kept: list[Progress] = []

    class Killed(Exception):
        pass

    def keep(at: Progress) -> None:
        kept.append(at)
        if len(kept) == 4:
            raise Killed

    with pytest.raises(Killed):
        matched(pair, keep=keep)
    again, _ = matched(pair, begun=kept[-1])
    assert same(again, matched(pair)[0])


def test_seconds_end_it(pair):
    clock = iter(range(1000))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(matching.time, "perf_counter", lambda: float(next(clock)))
        _, at = matched(pair, length=Length(seconds=7.0))
    assert at.step == 7


def test_a_loss_that_is_no_number_ends_it(pair):
    _, at = match(*pair, lambda step: batch(step) * (1 if step < 5 else float("nan")), [images(4, 3, PX, PX)],
                  Length(steps=20), PX)  # fmt: skip
    assert at.broken and at.step == 5


def test_every_image_is_seen_once_before_any_comes_again():
    at = shuffled(5, 3, seed=0)
    seen = [i for step in range(5) for i in at(step)]
    assert all(sorted(seen[i : i + 5]) == list(range(5)) for i in (0, 5, 10))
    assert seen[:5] != seen[5:10]


# ---- the stage ----


@pytest.fixture(scope="module")
def gone_through(original, data, tmp_path_factory) -> Path:
    """The folder of a run of pictures alone."""
    runs = tmp_path_factory.mktemp("runs")
    pictures = data.parent / "images" / "train"
    answer = run("run", f"model={original}", f"images={pictures}", f"runs={runs}", f"imgsz={PX}", *CUT, *LEFT_OUT,
                 "recover.match.steps=10")  # fmt: skip
    assert answer.code == 0, answer
    return runs / "slim"


def test_pictures_alone_are_enough(gone_through):
    report = json.loads((gone_through / "report" / "report.json").read_text())
    assert [row["stage"] for row in report["rows"]] == ["original", "pruned", "recovered"]
    assert not (gone_through / "finetuned").exists() and not (gone_through / "recovered" / stage.STATE).exists()
    said = json.loads((gone_through / "recovered" / "stage.json").read_text())["details"]
    assert said["steps"] == 10 and said["images"] == 8 and len(said["agreement"]) == 11
    card = checkpoint.card(gone_through / "recovered" / "recovered.pt")
    assert [step["stage"] for step in card["steps"]] == ["original", "pruned", "recovered"]


def again(gone_through: Path, to: Path, *words: str, command: str = "recover"):
    shutil.copytree(gone_through.parent, to / "runs")
    known = json.loads((gone_through / "run.json").read_text())
    return run(command, f"model={known['model']}", f"runs={to / 'runs'}", f"imgsz={PX}", *words)


def test_the_second_time_nothing_is_done(gone_through, tmp_path, data):
    answer = again(gone_through, tmp_path, f"images={data.parent / 'images' / 'train'}", "recover.match.steps=10")
    assert answer.code == 0 and "done before" in answer.out, answer


def test_a_killed_one_is_gone_on_with(gone_through, tmp_path, data, monkeypatch):
    class Killed(BaseException):
        pass

    words = (f"images={data.parent / 'images' / 'train'}", "recover.match.steps=20")
    save, times = checkpoint.save, []

    def killed(*args, **kwargs):
        done = save(*args, **kwargs)
        times.append(done)
        if len(times) == 3:
            raise Killed
        return done

    monkeypatch.setattr(stage.checkpoint, "save", killed)
    with pytest.raises(Killed):
        again(gone_through, tmp_path, *words)
    monkeypatch.setattr(stage.checkpoint, "save", save)
    left = tmp_path / "runs" / "slim" / "recovered" / stage.STATE
    assert left.exists()
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "runs", other / "runs")
    (other / "runs" / "slim" / "recovered" / stage.STATE).write_bytes(left.read_bytes()[:1000])
    known = json.loads((gone_through / "run.json").read_text())
    for folder, said in ((tmp_path, "going on after step 6"), (other, "starting afresh")):
        answer = run("recover", f"model={known['model']}", f"runs={folder / 'runs'}", f"imgsz={PX}", *words)
        assert answer.code == 0 and said in answer.out, answer
        assert not left.exists()
    ends = [checkpoint.load(f / "runs" / "slim" / "recovered" / "recovered.pt") for f in (tmp_path, other)]
    assert same(*ends)


def test_finetuning_begins_where_recovery_ended(gone_through, tmp_path, data):
    words = (f"data={data}", f"images={data.parent / 'images' / 'train'}", "finetune.epochs=1")
    answer = again(gone_through, tmp_path, *words, "recover.match.steps=10", command="finetune")
    assert answer.code == 0, answer
    done = json.loads((tmp_path / "runs" / "slim" / "finetuned" / "stage.json").read_text())
    assert "recovered/recovered.pt" in done["inputs"]


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("recover", (), ("recover.match", "recover.match.seconds=600")),
        ("recover", ("recover.match.steps=1",), ("data=", "images=FOLDER")),
        ("recover", ("recover.match.steps=1", "images=nowhere"), ("images: no folder nowhere",)),
        ("recover", ("recover.match.steps=1", "recover.match.seconds=1"), ("steps, seconds",)),
        ("finetune", ("recover.match.steps=1",), ("nothing is recovered yet", "yolo-slim recover")),
    ],
)
def test_what_is_missing_is_said(gone_through, tmp_path, command, words, said):
    shutil.copytree(gone_through.parent, tmp_path / "runs")
    if command == "finetune":
        shutil.rmtree(tmp_path / "runs" / "slim" / "recovered")
    known = json.loads((gone_through / "run.json").read_text())
    before = contents(tmp_path / "runs")
    refused(run(command, f"model={known['model']}", f"runs={tmp_path / 'runs'}", f"imgsz={PX}", *words), *said)
    after = contents(tmp_path / "runs")
    assert {**after, "slim/log.txt": None} == {**before, "slim/log.txt": None}, "but for the log, which tells it"


def test_nothing_cut_yet_is_said(original, data, tmp_path):
    refused(run("recover", f"model={original}", f"data={data}", f"runs={tmp_path}", "recover.match.steps=1"), "prune")


@pytest.mark.parametrize("file", ["yolov5/yolov5_v6.2.pt", "darknet/v3-tiny.cfg"])
def test_detectors_of_other_families_are_matched_too(file):
    whole = checkpoint.load(CORPUS / file)
    slim = prune(whole, imgsz=PX, ratio=0.4, round_to=1, min_channels=2, criterion="l1").model
    best, at = matched((slim, whole))
    assert at.least <= at.history[0][1] and gap(best, whole) == pytest.approx(at.least)


def test_a_detector_that_was_not_cut_from_it_is_refused(pair, tmp_path):
    with pytest.raises(SlimError):
        matched((pair[1], prune(build(tmp_path, seed=1), imgsz=PX, ratio=0.2, criterion="l1").model))
