"""The stage around distillation: what is wrong with a lesson shows before training, what decides it is recorded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from training_helpers import CLASSES, PX, YAML, draw_shapes, saved, tiny, write_yaml

import yolo_slim
from yolo_slim import SlimError, checkpoint, record
from yolo_slim.config import Distill, check
from yolo_slim.distill import FEATURES, OUTPUTS
from yolo_slim.stages import finetune as stage
from yolo_slim.stages.lesson import check_distill, check_kin, lesson, pictures


def draw(folder: Path, *names: str, side: int = 16) -> Path:
    """Black pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((side, side, 3), np.uint8))
    return folder


# ---- folders of pictures ----


def add(folder: Path) -> None:
    draw(folder / "deeper", "c.png")


def rename(folder: Path) -> None:
    (folder / "a.png").rename(folder / "z.png")


def redraw(folder: Path) -> None:
    draw(folder, "a.png", side=640)


def label(folder: Path) -> None:
    for name in ("a.txt", "a.npy", "labels.cache"):  # Ultralytics writes such beside its own images
        (folder / name).write_text("0 0.5 0.5 0.1 0.1")


@pytest.mark.parametrize(
    ("change", "other"),
    [(add, True), (rename, True), (redraw, True), (label, False), (lambda folder: None, False)],
)
@pytest.mark.parametrize("key", ["extra_images", "teacher_images"])
def test_pictures_that_change_undo_the_stage(tmp_path, key, change, other):
    chosen = Distill(**{key: str(draw(tmp_path / "more", "a.png", "b.png"))})
    before = pictures(chosen)
    change(tmp_path / "more")
    assert before.keys() == {f"{key}_sum"} and (pictures(chosen) != before) is other


def test_pictures_are_among_the_settings_of_the_stage(tmp_path, monkeypatch):
    folder = draw(tmp_path / "more", "a.png")
    config = check({"model": "best.pt", "data": "x.yaml", "finetune": {"distill": {"extra_images": str(folder)}}})
    seen = []
    monkeypatch.setattr(stage, "teachers_of", lambda config, chosen: [tmp_path / "teacher.pt"])
    monkeypatch.setattr(stage, "check_kin", lambda chosen, student, teachers: None)
    monkeypatch.setattr(stage, "run_stage", lambda config, name, settings, inputs, work: seen.append(settings))
    stage.tune(config, "finetuned", tmp_path / "start.pt", 1)
    add(folder)
    stage.tune(config, "finetuned", tmp_path / "start.pt", 1)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("key", ["extra_images", "teacher_images"])
def test_a_folder_that_is_not_there_or_empty(tmp_path, key):
    with pytest.raises(SlimError, match=f"finetune.distill.{key}: no folder .*none"):
        pictures(Distill(**{key: str(tmp_path / "none")}))
    with pytest.raises(SlimError, match=f"finetune.distill.{key}: expected pictures .*jpg.* in .*, found none"):
        pictures(Distill(**{key: str(tmp_path)}))


# ---- settings that do not go together ----


@pytest.mark.parametrize(
    ("finetune", "prune", "said"),
    [
        ({"epochs": 3, "distill": {"stop_before": 3}}, {}, "stop_before=3 leaves no epoch .*finetune.epochs=3"),
        ({"epochs": 3, "distill": {"ramp_epochs": 3.5}}, {}, "ramp_epochs=3.5 never ends: finetune.epochs=3; .* 3 at"),
        (
            {"epochs": 3, "distill": {"ramp_epochs": 2, "stop_before": 2}},
            {},
            "the last 2 without a teacher; expected 1",
        ),
        (
            {"epochs": 9, "distill": {"stop_before": 5}},
            {"iterations": {"rounds": 2, "epochs": 5}},
            "leaves no epoch with a teacher: prune.iterations.epochs=5",
        ),
        (
            {"distill": {"extra_images": "more"}, "train": {"rect": True}},
            {},
            "images of one shape: leave out train.rect",
        ),
        ({"train": {"distill_model": "big.pt"}}, {}, "Ultralytics' own teacher: leave ours out"),
    ],
)
def test_what_does_not_go_together_is_refused(finetune, prune, said):
    with pytest.raises(SlimError, match=said):
        check({"model": "best.pt", "finetune": finetune, "prune": prune})


def test_what_does_go_together():
    check({"model": "best.pt", "finetune": {"epochs": 3, "distill": {"ramp_epochs": 2, "stop_before": 1}}})
    check({"model": "best.pt", "finetune": {"epochs": 3, "distill": {"ramp_epochs": 3}}})
    check({"model": "best.pt", "finetune": {"distill": None, "train": {"distill_model": "big.pt"}}})


# ---- losses and their options ----


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"features": {"mimic": {"weight": "abc"}}}, "features.mimic.weight: expected a number from 0 on, got 'abc'"),
        ({"features": {"mimic": -1}}, "features.mimic.weight: expected a number from 0 on, got -1"),
        ({"features": {"mimic": float("nan")}}, "features.mimic.weight: .* got nan"),
        ({"outputs": {"box": {"weight": True}}}, "outputs.box.weight: .* got True"),
        ({"features": {"cwd": {"temperature": "hot"}}}, "features.cwd.temperature: expected a number, got 'hot'"),
        ({"features": {"cwd": {"temperature": 0}}}, "`cwd`: temperature should be above 0, 0 came"),
        ({"outputs": {"ld": {"temperature": float("inf")}}}, "outputs.ld.temperature: expected a number, got inf"),
        ({"features": {"fgfi": {"sizes": 2}}}, "features.fgfi.sizes: expected a list of numbers above 0, got 2"),
        ({"features": {"fgfi": {"sizes": []}}}, "features.fgfi.sizes: expected a list"),
        ({"features": {"cwd": {"adapter": "yes"}}}, "features.cwd.adapter: expected true or false, got 'yes'"),
        ({"features": {"fsp": {"normalize": None}}}, "features.fsp.normalize: expected true or false, got None"),
        ({"outputs": {"darkrank": {"length": 2.5}}}, "outputs.darkrank.length: expected a whole number above 0"),
        ({"features": {"mgd": {"masked": 2}}}, "share from 0 to 1, 2 came"),
        ({"features": {"cwd": {"tau": 2}}}, "features.cwd: no option tau; expected weight, adapter, temperature"),
        ({"outputs": "mimic"}, "finetune.distill.outputs: no loss mimic"),
    ],
)
def test_an_option_that_cannot_be_is_refused(section, said):
    with pytest.raises(SlimError, match=said):
        lesson(Distill(**section), [])


def test_options_that_can_be():
    every = {"features": {"fgfi": {"weight": 0, "sizes": [2, 4.5]}, "cwd": {"adapter": None, "temperature": 4}},
             "outputs": {"bounded": {"margin": -0.5}, "ld": {"valuable": 1}}}  # fmt: skip
    lesson(Distill(**every), [])
    lesson(Distill(features=list(FEATURES), outputs=list(OUTPUTS)), [])


def test_the_original_teaches_where_that_pays_unless_it_is_left_out():
    usual = check({"model": "best.pt"}).finetune
    assert usual.distill == "auto" and usual.lesson == Distill(teacher="original", features="auto")
    assert check({"model": "best.pt", "finetune": {"distill": None}}).finetune.distill is None
    for wrong in (False, 3, "yes", [], ["original"]):
        with pytest.raises(SlimError, match=r"finetune\.distill: .*null, which leaves the teacher out"):
            check({"model": "best.pt", "finetune": {"distill": wrong}})


def test_no_teacher_at_all_is_refused():
    with pytest.raises(SlimError, match=r"finetune\.distill\.teacher"):
        check({"model": "best.pt", "finetune": {"distill": {"teacher": []}}})


@pytest.mark.parametrize(
    ("teacher", "features", "kin", "chosen"),
    [
        ("original", "auto", [True], "channels"),
        ("large.pt", "auto", [False], "mimic"),
        (["original"], "auto", [True], "channels"),
        (["original", "large.pt"], "auto", [True, False], "mimic"),
        ("slim.pt", "channels", [True], "channels"),
    ],
)
def test_which_teachers_are_kin(teacher, features, kin, chosen):
    found = lesson(Distill(teacher=teacher, features=features), [])
    assert found["kin"] == kin and list(found["features"]) == [chosen]


# ---- where detectors come from ----


def source(total: str) -> dict:
    return {"source": {"file": "a.pt", "sha256": total}}


def steps(*worth: float) -> dict:
    return {"steps": [{"stage": "original", "map50": each} for each in worth]}


@pytest.mark.parametrize(
    ("mine", "theirs", "related"),
    [
        pytest.param(source("ab"), source("ab"), True, id="cut from the same"),
        pytest.param(source("ab"), source("cd"), False, id="from another"),
        pytest.param(source("ab"), None, False, id="from another, which is no work of ours"),
        pytest.param(source("THEIRS"), None, True, id="from that very file"),
        pytest.param(steps(0.5, 0.4), steps(0.5), True, id="trained here first"),
        pytest.param(steps(0.5), steps(0.6), False, id="another training of it"),
        pytest.param(None, source("ab"), True, id="nothing is known of it"),
    ],
)
def test_channels_are_compared_with_those_of_what_it_was_cut_from(tmp_path, mine, theirs, related):
    original = tiny(tmp_path)
    teacher = saved(original, tmp_path / "teacher.pt")
    slim = yolo_slim.prune(original, imgsz=PX, ratio=0.4, round_to=1, min_channels=2).model
    student = saved(slim, tmp_path / "student.pt")
    if mine == source("THEIRS"):
        mine = source(record.sha256(teacher))
    for path, card in ((student, mine), (teacher, theirs)):
        if card:
            checkpoint.inscribe(path, card)
    chosen = Distill(teacher=str(teacher), features="channels")
    if related:
        check_kin(chosen, student, [teacher])
    else:
        with pytest.raises(SlimError, match=r"teacher\.pt comes from another detector than .*student\.pt; take `orig"):
            check_kin(chosen, student, [teacher])
    check_kin(Distill(teacher=str(teacher)), student, [teacher])  # mimicry has adapters
    check_kin(Distill(teacher="original", features="channels"), student, [teacher])


# ---- before anything is trained ----


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("data"))


LEVEL = YAML.replace("[[9, 12], 1, Detect", "[[9], 1, Detect")
CLASSED = YAML.replace(f"nc: {CLASSES}", "nc: 9")
PLAIN = f"reg_max: 1{YAML}"


@pytest.mark.parametrize(
    ("text", "section", "said"),
    [
        pytest.param(LEVEL, {}, r"teacher .*other\.pt has other strides", id="strides"),
        pytest.param(CLASSED, {"outputs": "binary"}, "student has 4 classes, the teacher 9", id="classes"),
        pytest.param(PLAIN, {"outputs": "ld"}, "student has 16 a distance, the teacher 1", id="bins"),
        pytest.param(YAML, {"layers": ["model.99"]}, "model.99, which the student does not", id="a layer"),
        pytest.param(
            YAML, {"layers": {"model.3": "model.99"}}, r"the teacher .*other\.pt does not", id="the teacher's"
        ),
        pytest.param(YAML, {"layers": ["model.3"], "features": "fsp"}, "a map with the next, 1 came", id="one map"),
        pytest.param(YAML, {"teacher_images": "TWINS"}, "2 of 12 are missing", id="pictures"),
        pytest.param(YAML, {"features": "channels"}, "comes from another detector", id="channels of another"),
        pytest.param(
            CLASSED, {"teacher": ["original", "OTHER"], "outputs": "box"}, "4 classes, the 2. has 9", id="two"
        ),
        pytest.param(YAML, {"outputs": "binary"}, None, id="nothing"),
        pytest.param(YAML, {"teacher": ["original", "OTHER"], "outputs": "ld"}, None, id="nothing, two teachers"),
        pytest.param(YAML, {"features": {"mimic": {"adapter": False}}}, None, id="the student's widths"),
    ],
)
def test_what_training_would_stumble_over_shows_before(tmp_path, data, text, section, said):
    model = saved(tiny(tmp_path), tmp_path / "model.pt")
    other = saved(tiny(tmp_path, text, seed=3), tmp_path / "other.pt")
    twins = tmp_path / "twins"
    twins.mkdir()
    for file in sorted((Path(data).parent / "images" / "train").iterdir())[2:]:
        (twins / file.name).write_bytes(file.read_bytes())
    named = section.get("teacher", ["OTHER"])
    section = {**section, "teacher": [name.replace("OTHER", str(other)) for name in named]}
    if "teacher_images" in section:
        section["teacher_images"] = str(twins)
    config = check({"model": str(model), "data": data, "imgsz": PX, "finetune": {"distill": section}})
    if said is None:
        check_distill(config)
    else:
        with pytest.raises(SlimError, match=said):
            check_distill(config)


@pytest.mark.parametrize("text", [YAML, CLASSED])
def test_an_untrained_student_will_know_the_classes_of_the_data(tmp_path, data, text):
    """Whatever its YAML says; and so will its original, which is not there yet."""
    model = write_yaml(tmp_path, YAML.replace(f"nc: {CLASSES}", "nc: 80"))
    (tmp_path / "other").mkdir()
    other = saved(tiny(tmp_path / "other", text, seed=3), tmp_path / "other.pt")
    section = {"teacher": ["original", str(other)], "outputs": "binary"}
    config = check({"model": model, "data": data, "imgsz": PX, "finetune": {"distill": section}})
    if text is YAML:
        check_distill(config)
    else:
        with pytest.raises(SlimError, match=r"has 4 classes, the 2\. has 9"):
            check_distill(config)


def test_the_default_is_checked_too(tmp_path, data):
    model = saved(tiny(tmp_path), tmp_path / "model.pt")
    check_distill(check({"model": str(model), "data": data, "imgsz": PX, "finetune": {"distill": {}}}))
