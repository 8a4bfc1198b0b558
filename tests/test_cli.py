"""The command line: what it teaches, what it refuses, how it ends."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from tiny import refused, run, run_alone

from yolo_slim import __version__
from yolo_slim.config import Config, read_config, section
from yolo_slim.stages import STAGES

READS = {  # what each stage reads beside the general settings: `original` because an untrained model is trained first
    "run": {"original", "sparse_train", "prune", "latency", "recover", "finetune", "export", "bench", "report"},
    "plan": {"original", "sparse_train", "prune", "latency"},  # sparse_train: whether what it has left is cut
    "sparse-train": {"original", "sparse_train", "prune", "latency"},  # targeted: the channels that prune removes
    "prune": {"original", "sparse_train", "prune", "latency", "finetune"},  # finetune: between rounds
    "sensitivity": {"original", "sparse_train", "prune"},
    "recover": {"recover"},
    "finetune": {"recover", "finetune"},  # recover: whether it begins there
    "compress": {"original", "prune"},  # prune: what is looked at
    "report": {"report"},
    "bench": {"bench"},
    "export": {"export"},
    "sweep": {"original", "prune", "latency", "sweep", "report"},
    "convert": {"convert"},
    "pack": {"pack"},
    "unpack": {"unpack"},
    "init": {"init"},
    "inspect": set(),
}


def leaves(path: list[str]) -> dict[str, object]:
    """Dotted key -> default, of every setting below a section that is no section itself."""
    found = {}
    for name, field in section(path).model_fields.items():
        inner = section([*path, name])
        if inner is None:
            found[".".join([*path, name])] = field
        elif path:
            found |= leaves([*path, name])
    return found


def listed(text: str) -> dict[str, str]:
    """Dotted key -> default as printed."""
    return dict(re.findall(r"^  ([\w.]+)  (\S.*)$", text.partition("General:")[2], re.MULTILINE))


def flat(text: str) -> str:
    """On one line, wherever it was wrapped."""
    return " ".join(text.split())


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]], ids=["nothing", "--help", "-h", "help"])
def test_usage_names_every_stage_with_its_sentence(words: list[str]) -> None:
    answer = run(*words)
    assert (answer.code, answer.err) == (0, "")
    assert [stage for stage, what in STAGES.items() if f" {stage} {what.help}" not in flat(answer.out)] == []
    assert "key=value" in answer.out


@pytest.mark.parametrize("stage", STAGES)
def test_help_lists_every_setting_of_the_stage(stage: str) -> None:
    answer = run(stage, "--help")
    assert (answer.code, answer.err) == (0, "")
    expected = {key for path in [[], *([name] for name in READS[stage])] for key in leaves(path)}
    assert listed(answer.out).keys() == expected
    assert flat(STAGES[stage].example) in flat(answer.out)


@pytest.mark.parametrize("stage", STAGES)
def test_help_shows_defaults_as_one_may_type_them(stage: str) -> None:
    shown = listed(run(stage, "--help").out)
    fields = {key: field for path in [[], *([name] for name in READS[stage])] for key, field in leaves(path).items()}
    wrong = {
        key: text
        for key, text in shown.items()
        if not fields[key].is_required() and yaml.safe_load(text) != fields[key].default
    }
    assert wrong == {}
    assert [shown[key] for key in ("model", "data", "imgsz")] == ["null"] * 3, "the run's"


@pytest.mark.parametrize("stage", STAGES)
def test_help_explains_every_setting(stage: str) -> None:
    text = flat(run(stage, "--help").out)
    for path in [[], *([name] for name in STAGES[stage].sections)]:
        for key, field in leaves(path).items():
            assert field.description, key
            assert flat(field.description) in text


@pytest.mark.parametrize("stage", STAGES)
def test_the_example_of_each_stage_can_be_typed(stage: str) -> None:
    program, named, *words = shlex.split(STAGES[stage].example)
    assert (program, named) == ("yolo-slim", stage)
    settings = [word for word in words if "=" in word]
    assert isinstance(read_config(None, ["model=a.pt", *settings]), Config)


def test_help_anywhere_runs_nothing(tmp_path: Path) -> None:
    answer = run("prune", "model=none.pt", f"runs={tmp_path / 'runs'}", "--help")
    assert answer.code == 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_version(word: str) -> None:
    assert run(word) == (0, f"yolo-slim {__version__}\n", "")


def test_help_and_mistakes_need_no_torch(tmp_path: Path) -> None:
    commands = [["--help"], *([stage, "--help"] for stage in STAGES), ["--version"], ["prun"], ["prune", "imgs=3"]]
    code = (
        "import json; from yolo_slim.cli import main; "
        f"codes = [main(words) for words in {commands!r}]; "
        "heavy = sorted({'torch', 'ultralytics', 'numpy', 'cv2', 'matplotlib'} & sys.modules.keys()); "
        "print('\\n' + json.dumps([codes, heavy]))"
    )
    answer = run_alone(cwd=tmp_path, code=code)
    assert answer.code == 0, answer.err
    codes, heavy = json.loads(answer.out.splitlines()[-1])
    assert codes == [0] * (len(commands) - 2) + [2, 2]
    assert heavy == []


@pytest.mark.parametrize(
    ("stage", "nearest"),
    [
        pytest.param("prun", "prune", id="a letter missing"),
        pytest.param("sparse_train", "sparse-train", id="underscore for dash, as the section is called"),
        pytest.param("fine-tune", "finetune", id="a dash too many"),
        pytest.param("exprot", "export", id="letters swapped"),
    ],
)
def test_an_unknown_stage_offers_the_nearest(stage: str, nearest: str) -> None:
    refused(run(stage), repr(stage), f"did you mean {nearest}?")


def test_an_unknown_stage_near_to_nothing_lists_them_all() -> None:
    answer = run("zzz")
    refused(answer, "unknown stage 'zzz'", *STAGES)
    assert "did you mean" not in answer.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["--ratio=0.5"], ["--ratio=0.5", "no dashes", "key=value"], id="a flag with a value"),
        pytest.param(["--imgsz", "320"], ["--imgsz", "no dashes"], id="a flag and its value"),
        pytest.param(["-v"], ["-v", "no dashes"], id="a short flag"),
        pytest.param(["a.yaml", "b.yaml"], ["one configuration", "a.yaml and b.yaml"], id="two configurations"),
        pytest.param(
            ["none.yaml"], ["cannot read the configuration none.yaml"], id="a configuration that is not there"
        ),
        pytest.param([], ["model: needed"], id="nothing at all"),
        pytest.param(["model=a.pt", "prune.ration=1"], ["prune.ration", "prune.ratio?"], id="a misspelt setting"),
        pytest.param(["=3"], ["expected key=value", "=3"], id="a value without a key"),
    ],
)
def test_wrong_words_are_refused(words: list[str], expected: list[str]) -> None:
    refused(run("prune", *words), *expected)


def test_a_process_of_its_own_ends_with_2_and_one_message(tmp_path: Path) -> None:
    code = "import runpy; sys.argv[0] = 'yolo-slim'; runpy.run_module('yolo_slim.cli', run_name='__main__')"
    answer = run_alone("prune", "model=a.pt", "prune.ration=0.3", cwd=tmp_path, code=code)
    refused(answer, "prune.ration: unknown setting; did you mean prune.ratio?")
    assert answer.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_installed_command_ends_with_the_code_of_main(tmp_path: Path) -> None:
    assert run_alone("--version", cwd=tmp_path) == (0, f"yolo-slim {__version__}\n", "")
    refused(run_alone("prune", cwd=tmp_path), "model: needed")


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: Config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(STAGES, "prune", interrupted)
    answer = run("prune", "model=a.pt")
    assert answer.code == 130
    assert "interrupted" in answer.err
    assert "Traceback" not in answer.err


def test_a_mistake_of_ours_is_not_disguised_as_one_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: Config) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(STAGES, "prune", broken)
    with pytest.raises(ZeroDivisionError):
        run("prune", "model=a.pt")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_its_recipe(stage: str) -> None:
    recipe = STAGES[stage].function
    assert recipe.__module__ == f"yolo_slim.stages.{stage.replace('-', '_')}"
