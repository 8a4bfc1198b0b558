"""Settings: merged, checked at the door, and every mistake told at once with the nearest thing that exists."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from yolo_slim.config import Config, read_config, section
from yolo_slim.errors import SlimError


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def message(path: Path | None, *words: str) -> str:
    """What is said of settings that are wrong."""
    with pytest.raises(SlimError) as caught:
        read_config(path, list(words))
    return str(caught.value)


def told(*words: str) -> str:
    """What is said of words on the command line."""
    return message(None, "model=a.pt", *words)


def value(config: Config, key: str) -> object:
    for step in key.split("."):
        config = config[step] if isinstance(config, dict) else getattr(config, step)
    return config


YAML = """
model: weights/a.pt
imgsz: 320
prune:
  criterion: l1
  target: {flops: 0.5}
  layers: {model.2.*: 0.1}
finetune:
  train: {batch: 16, lr0: 0.01}
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([], {"model": "weights/a.pt", "imgsz": 320, "seed": 0}, id="the YAML, and defaults beside it"),
        pytest.param(["imgsz=64"], {"imgsz": 64, "model": "weights/a.pt"}, id="the word wins"),
        pytest.param(["imgsz=64", "imgsz=96"], {"imgsz": 96}, id="the last word wins"),
        pytest.param(
            ["prune.target.flops=0.3"],
            {"prune.target.flops": 0.3, "prune.criterion": "l1"},
            id="a nested word leaves its neighbours",
        ),
        pytest.param(
            ["prune.target.params=0.6"],
            {"prune.target.flops": 0.5, "prune.target.params": 0.6},
            id="a nested word joins what is there",
        ),
        pytest.param(
            ["prune.target=null", "prune.ratio=0.4"],
            {"prune.target": None, "prune.ratio": 0.4},
            id="null takes a setting back",
        ),
        pytest.param(["prune={ratio: 0.4}"], {"prune.ratio": 0.4, "prune.target": None}, id="a whole section"),
        pytest.param(
            ["finetune.train.lr0=0.5"],
            {"finetune.train": {"batch": 16, "lr0": 0.5}},
            id="one Ultralytics argument of several",
        ),
        pytest.param(
            ["finetune.train.lr0=1e-3"],
            {"finetune.train": {"batch": 16, "lr0": 0.001}},
            id="1e-3 is a number, though YAML 1.1 calls it a text",
        ),
        pytest.param(
            ["finetune.distill.teacher=big.pt"],
            {"finetune.distill.teacher": "big.pt", "finetune.distill.features": {"auto": {}}},
            id="a section that is off comes to be",
        ),
        pytest.param(
            ["prune.layers.model.4.*=0.3"],
            {"prune.layers": {"model.2.*": 0.1, "model.4.*": 0.3}},
            id="the dots of a layer's name are not steps",
        ),
        pytest.param(["prune.layers.model.2.*=0.3"], {"prune.layers": {"model.2.*": 0.3}}, id="... and it replaces"),
        pytest.param(["prune.exclude=[model.0, model.4]"], {"prune.exclude": ["model.0", "model.4"]}, id="a list"),
        pytest.param(["device=0"], {"device": "0"}, id="a GPU's number is a name"),
        pytest.param(["device=0,1"], {"device": "0,1"}, id="two GPUs"),
        pytest.param(["data=a=b.yaml"], {"data": "a=b.yaml"}, id="only the first = divides"),
    ],
)
def test_words_win_over_the_yaml(tmp_path: Path, words: list[str], expected: dict[str, object]) -> None:
    config = read_config(written(tmp_path, YAML), words)
    assert {key: value(config, key) for key in expected} == expected


def test_a_word_that_stands_for_a_section_gives_way_to_what_is_said_of_the_section(tmp_path: Path) -> None:
    path = written(tmp_path, "model: a.pt\nfinetune: {distill: auto}\n")
    assert read_config(path, []).finetune.distill == "auto"
    assert value(read_config(path, ["finetune.distill.features=cwd"]), "finetune.distill.features") == {"cwd": {}}
    for wrong in ("fast", "autos"):
        path = written(tmp_path, f"model: a.pt\nfinetune: {{distill: {wrong}}}\n")
        with pytest.raises(SlimError, match=f"finetune.distill is given as '{wrong}'"):
            read_config(path, ["finetune.distill.features=cwd"])


def test_words_alone_are_enough() -> None:
    config = read_config(None, ["model=a.pt", "name=mine", "runs=out"])
    assert config == Config(model="a.pt", name="mine", runs="out")
    assert config.folder == Path("out/mine")


def test_an_empty_yaml_is_no_settings(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, "# nothing yet\n"), ["model=a.pt"]) == Config(model="a.pt")


def test_a_yaml_may_say_1e_minus_3(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, "model: a.pt\nfinetune: {train: {lr0: 1e-3}}\n"), [])
    assert config.finetune.train == {"lr0": 0.001}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        pytest.param("imgs=64", ["imgs: unknown setting", "did you mean imgsz?"], id="top level"),
        pytest.param("finetun.epochs=3", ["finetun: unknown setting", "did you mean finetune?"], id="a section"),
        pytest.param("prune.ration=0.3", ["prune.ration: unknown", "did you mean prune.ratio?"], id="in a section"),
        pytest.param("prune.target.flop=0.3", ["prune.target.flop:", "prune.target.flops?"], id="in a target"),
        pytest.param("finetune.distill.teachr=a.pt", ["finetune.distill.teacher?"], id="in an optional section"),
        pytest.param("--imgsz=64", ["--imgsz: unknown setting", "did you mean imgsz?"], id="a dash too many"),
        pytest.param("zzz=1", ["zzz: unknown setting"], id="nothing is near"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest(word: str, expected: list[str]) -> None:
    text = told(word)
    assert [part for part in expected if part not in text] == []
    assert ("did you mean" in text) == any("?" in part for part in expected)


@pytest.mark.parametrize(
    ("word", "key"),
    [
        pytest.param("imgsz=big", "imgsz", id="a word for a number"),
        pytest.param("imgsz=16", "imgsz", id="below its range"),
        pytest.param("imgsz=320.5", "imgsz", id="a fraction for a whole number"),
        pytest.param("finetune.epochs=0", "finetune.epochs", id="no epochs"),
        pytest.param("finetune.epochs=true", "finetune.epochs", id="yes is not a number of epochs"),
        pytest.param("prune.ratio=1", "prune.ratio", id="all channels"),
        pytest.param("prune.ratio=-0.1", "prune.ratio", id="less than none"),
        pytest.param("prune.target.flops=50", "prune.target.flops", id="per cent for a share"),
        pytest.param("prune.target=0.5", "prune.target", id="a target without its kind"),
        pytest.param("prune.scope=everywhere", "prune.scope", id="not among the choices"),
        pytest.param("prune.exclude=true", "prune.exclude", id="yes for a list"),
        pytest.param("prune.layers.model.2.*=1.5", "prune.layers.model.2.*", id="a share above one, at a layer"),
        pytest.param("prune=0.5", "prune", id="a number for a section"),
        pytest.param("export.formats=[onnyx]", "export.formats", id="a format that is not there"),
        pytest.param("export.formats=[mnn]", "export.formats", id="a format whose package installs others"),
        pytest.param("export.int8=[ncnn]", "export.int8", id="a format without a quantiser"),
        pytest.param("export.imgsz=100", "export.imgsz", id="an image side that strides do not divide"),
        pytest.param("export.tolerance=0", "export.tolerance", id="no tolerance at all"),
        pytest.param("name=a/b", "name", id="a path for a name"),
        pytest.param("name=..", "name", id="a name that leaves the folder"),
    ],
)
def test_a_mistyped_value_is_refused_with_its_key(word: str, key: str) -> None:
    text = told(word)
    assert f"  {key}" in text
    assert word.partition("=")[2].strip("[]") in text.replace("True", "true").replace("None", "null")


def test_training_for_int8_needs_a_package_that_is_not_installed_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install yolo-slim[qat]" in told("finetune.train={quantize: 8}")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert read_config(None, ["model=a.pt", "finetune.train={quantize: 8}"]).finetune.train == {"quantize": 8}


def test_what_the_run_or_the_checkpoint_says_may_be_left_out() -> None:
    config = read_config(None, [])
    assert (config.model, config.data, config.imgsz, config.overwrite) == (None, None, None, False)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["mode=soft", "weights=average"], "live weights", id="soft: the average is never zeroed"),
        pytest.param(["mode=polarization", "update=subgradient"], "mode=uniform", id="subgradient: uniform alone"),
        pytest.param(["landing=0"], "sparse_train.landing", id="no time to land"),
        pytest.param(["polarization_t=2.5"], "sparse_train.polarization_t", id="t beyond its range"),
    ],
)
def test_settings_that_a_mode_cannot_follow(words: list[str], expected: str) -> None:
    assert expected in told(*(f"sparse_train.{word}" for word in words))


def test_ratio_and_target_exclude_each_other(tmp_path: Path) -> None:
    for text in (
        told("prune.ratio=0.3", "prune.target.flops=0.5"),
        message(written(tmp_path, YAML), "prune.ratio=0.3"),
    ):
        assert "ratio and target" in text
        assert "choose one" in text


ALL_WRONG = """
imgs: 320
prune: {ratio: 2, scope: all, rond_to: 8}
finetune: {epochs: 0, train: {lr1: 0.1}}
export: {tolerance: tiny}
"""


@pytest.mark.parametrize(
    "part",
    [
        "imgs: unknown setting",
        "prune.ratio",
        "prune.scope",
        "prune.rond_to: unknown setting; did you mean prune.round_to?",
        "finetune.epochs",
        "lr1",
        "export.tolerance",
        "report.split",
    ],
)
def test_all_errors_come_at_once(tmp_path: Path, part: str) -> None:
    path = written(tmp_path, ALL_WRONG)
    text = message(path, "report.split=dev")
    assert text.startswith(f"{path}:\n")
    assert part in text


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        pytest.param("momentun=0.1", ["momentun", "no such argument", "momentum?"], id="unknown, with the nearest"),
        pytest.param("batchsize=8", ["batchsize", "did you mean batch?"], id="unknown, a usual one"),
        pytest.param("lr0=fast", ["lr0", "fast"], id="a word for a number"),
        pytest.param("momentum=[1]", ["momentum"], id="a list for a number"),
        pytest.param("cos_lr=1.5", ["cos_lr", "1.5"], id="a number for a switch"),
        pytest.param("epochs=3", ["epochs", "set by yolo-slim"], id="ours: epochs"),
        pytest.param("imgsz=64", ["imgsz", "set by yolo-slim"], id="ours: imgsz"),
        pytest.param("data=a.yaml", ["data", "set by yolo-slim"], id="ours: data"),
        pytest.param("resume=true", ["resume", "set by yolo-slim"], id="ours: resume"),
        pytest.param("project=here", ["project", "set by yolo-slim"], id="ours: where results go"),
    ],
)
@pytest.mark.parametrize("stage", ["original", "sparse_train", "finetune"])
def test_ultralytics_arguments_are_checked_too(stage: str, word: str, expected: list[str]) -> None:
    text = told(f"{stage}.train.{word}")
    assert f"  {stage}" in text
    assert [part for part in expected if part not in text] == []


def test_an_argument_that_is_ours_is_never_offered() -> None:
    text = told("finetune.train.epoch=3")  # near `epochs`, which would be refused next
    assert "did you mean epochs?" not in text


@pytest.mark.parametrize("word", ["batch=16", "lr0=0.5", "optimizer=SGD", "cos_lr=true", "close_mosaic=0", "amp=false"])
def test_ultralytics_arguments_pass_through(word: str) -> None:
    key = word.partition("=")[0]
    assert list(read_config(None, ["model=a.pt", f"finetune.train.{word}"]).finetune.train) == [key]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("model: [a.pt", "is not YAML", id="a bracket left open"),
        pytest.param("model: a.pt\n\timgsz: 3", "is not YAML", id="a tab"),
        pytest.param("- model: a.pt", "got a list", id="a list"),
        pytest.param("just words", "got a str", id="a sentence"),
        pytest.param("model: !!python/object:os.system x", "is not YAML", id="an object of Python"),
    ],
)
def test_a_file_that_holds_no_settings(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    got = message(path)
    assert str(path) in got
    assert expected in got


def test_a_file_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80model")
    assert f"{path} is not YAML" in message(path)


@pytest.mark.parametrize("name", ["none.yaml", "."], ids=["missing", "a folder"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    assert f"cannot read the configuration {tmp_path / name}" in message(tmp_path / name)


@pytest.mark.parametrize("word", ["=3", "imgsz=[1", "prune.ratio={"])
def test_a_word_that_cannot_be_read(word: str) -> None:
    assert word.partition("=")[0] in told(word)


@pytest.mark.parametrize("path", [[], ["prune"], ["finetune"]], ids=["general", "prune", "finetune"])
def test_settings_are_frozen(path: list[str]) -> None:
    settings: object = Config(model="a.pt")
    for step in path:
        settings = getattr(settings, step)
    name = next(iter(section(path).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, name, getattr(settings, name))
