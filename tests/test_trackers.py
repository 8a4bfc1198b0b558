"""Who is told how a training goes; in processes of their own, as Ultralytics tells nobody under pytest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny import PX, refused, run, run_alone
from ultralytics.utils import SETTINGS

from yolo_slim.config import read_config
from yolo_slim.training import trackers
from yolo_slim.training.fonts import local_font

pytest_plugins = ["tiny"]

STAND_IN = '''
"""Writes down what it is asked, as {package} would take it."""
import json, os, sys
__version__ = "0"
def _said(what, /, *given, **named):
    with open(os.environ["SAID"], "a") as file:
        told = {k: str(v) for k, v in named.items()}
        file.write(json.dumps(["{package}", what, *map(str, given), told]) + "\\n")
class _Thing:
    id = run_id = "1"
    config = info = property(lambda self: self)
    def __init__(self, *given, **named): pass
    def __getattr__(self, name):
        return lambda *given, **named: _said(name, *given, **named)
run = None
def active_run(): return None
def init(**named):
    global run
    run = _Thing()
    _said("init", mode=os.environ.get("WANDB_MODE"), **named)
def start_run(**named):
    _said("start_run", **named)
    return _Thing()
def get_tracking_uri(): return os.environ.get("MLFLOW_TRACKING_URI")
def __getattr__(name):
    if name.startswith("__"): raise AttributeError(name)
    return _Thing if name[0].isupper() else lambda *given, **named: _said(name, *given, **named)
'''

TRAINED = (
    "import os, sys; sys.path.insert(0, os.environ['HERE']); os.environ.pop('PYTEST_CURRENT_TEST', None); "
    "from yolo_slim.cli import main; sys.exit(main())"
)


@pytest.fixture
def words(original: Path, data: Path, tmp_path: Path) -> list[str]:
    return [f"model={original}", f"data={data}", f"imgsz={PX}", f"runs={tmp_path / 'runs'}", "name=mine"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins for MLflow and W&B, which write down what they are asked."""
    (folder := tmp_path / "packages").mkdir()
    for package in ("mlflow", "wandb"):
        (folder / f"{package}.py").write_text(STAND_IN.replace("{package}", package))
    monkeypatch.setenv("HERE", str(folder))
    monkeypatch.setenv("SAID", str(tmp_path / "said.jsonl"))
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "GITHUB_ACTIONS", "CI"):
        monkeypatch.delenv(name, raising=False)
    return folder


TRAIN = (
    "original.epochs=1",
    "original.transfer=true",
    "original.train={batch: 4, plots: false}",
    "prune.ratio=0.3",
    "prune.criterion=l1",
    "prune.calib_images=4",
)


def said(tmp_path: Path) -> list[list]:
    return [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]


def test_each_is_told_run_and_stage_and_stays_offline(words: list[str], here: Path, tmp_path: Path) -> None:
    answer = run_alone("prune", *words, *TRAIN, "trackers=mlflow,wandb", cwd=tmp_path, code=TRAINED)
    assert answer.code == 0, answer.err
    heard = said(tmp_path)
    (begun,) = (each[-1] for each in heard if each[:2] == ["wandb", "init"])
    assert (begun["project"], begun["name"], begun["mode"]) == ("mine", "original", "offline")
    assert ["mlflow", "set_experiment", "mine", {}] in heard
    assert ["mlflow", "start_run", {"run_name": "original"}] in heard
    logged = [each[-1]["metrics"] for each in heard if each[:2] == ["mlflow", "log_metrics"]]
    assert any("mAP50-95" in each for each in logged) and any("train/box_loss" in each for each in logged)
    assert f"loggedto{(tmp_path / 'runs' / 'mlruns').as_uri()}" in "".join(answer.out.split())  # lines are wrapped


def test_what_is_set_otherwise_is_kept(words: list[str], here: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    answer = run_alone("prune", *words, *TRAIN, "trackers=wandb", cwd=tmp_path, code=TRAINED)
    assert answer.code == 0, answer.err
    assert {each[0] for each in said(tmp_path)} == {"wandb"}
    assert next(each[-1] for each in said(tmp_path) if each[1] == "init")["mode"] == "disabled"


def test_nobody_is_told_unless_asked(words: list[str], here: Path, tmp_path: Path) -> None:
    """Whatever Ultralytics' own settings say."""
    code = TRAINED.replace("from yolo_slim.cli", "from ultralytics import utils; "
                           "dict.update(utils.SETTINGS, mlflow=True, wandb=True); from yolo_slim.cli")  # fmt: skip
    answer = run_alone("prune", *words, *TRAIN, cwd=tmp_path, code=code)
    assert answer.code == 0, answer.err
    assert not (tmp_path / "said.jsonl").exists()


def test_what_is_not_installed_is_said_before_anything(words: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(run("prune", *words, "trackers=wandb"), "trackers: wandb: not installed: pip install yolo-slim[trackers]")
    assert not (tmp_path / "runs").exists()


def test_an_unknown_one_is_refused(words: list[str]) -> None:
    refused(run("prune", *words, "trackers=comet"), "trackers.0", "'tensorboard', 'mlflow' or 'wandb'")


def test_trackers_do_not_make_a_stage_anew(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    cut = [*words, "prune.ratio=0.3", "prune.criterion=l1", "prune.calib_images=4"]
    assert run("prune", *cut).code == 0
    assert run("prune", *cut, "trackers=[mlflow]").out.count("done before") == 3


def test_settings_of_ultralytics_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics import utils

    monkeypatch.setattr(os, "environ", dict(os.environ))
    (tmp_path / trackers.FILE).write_text(json.dumps(trackers.said(["wandb"], "r", "s", tmp_path)[trackers.FILE]))
    before = dict(SETTINGS)
    with trackers.attached(tmp_path) as told:
        assert (told["run"], told["stage"]) == ("r", "s")
        assert utils.SETTINGS["wandb"] is True and utils.SETTINGS["mlflow"] is False
    assert utils.SETTINGS is SETTINGS and dict(SETTINGS) == before
    with trackers.attached(tmp_path / "elsewhere") as told:
        assert told == {} and utils.SETTINGS is SETTINGS


def test_none_is_the_default() -> None:
    assert read_config(None, []).trackers == []


def test_plots_are_drawn_without_a_network(words: list[str], tmp_path: Path) -> None:
    """By default; with fonts that are here."""
    code = (
        "import socket\n"
        "def no(*anything, **more): raise SystemExit('a connection')\n"
        "socket.socket.connect = no; socket.getaddrinfo = no\n"
        "from yolo_slim.cli import main; sys.exit(main())"
    )
    with_plots = [word.replace(", plots: false", "") for word in TRAIN]
    answer = run_alone("prune", *words, *with_plots, cwd=tmp_path, code=code)
    assert answer.code == 0, answer.err
    drawn = {path.name for path in (tmp_path / "runs" / "mine" / "original" / "train").iterdir()}
    assert {"results.png", "train_batch0.jpg", "val_batch0_pred.jpg"} <= drawn
    assert any("PR_curve" in name for name in drawn) and any("confusion" in name for name in drawn)


def test_a_font_is_found_that_is_here() -> None:
    for name in ("Arial.ttf", "Nothing.ttf"):
        assert Path(local_font(name)).is_file()
