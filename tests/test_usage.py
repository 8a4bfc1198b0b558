"""Help within the terminal's width, completion, and the command line as a module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import refused, run

from yolo_slim import __version__
from yolo_slim.console import Terminal
from yolo_slim.stages import STAGES
from yolo_slim.usage import SHELLS, completion


@pytest.mark.parametrize("columns", [60, 80, 132])
@pytest.mark.parametrize("words", [["--help"], ["prune", "--help"], ["run", "--help"]], ids=" ".join)
def test_help_keeps_within_the_terminal(words: list[str], columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run(*words).out.splitlines()
    assert max(map(len, lines)) > 0.8 * columns, "all of it is used"
    # A word alone is not broken: defaults are to be typed as they stand, as is a command.
    wide = [line for line in lines if len(line) > columns and len(line.split()) > 2 and "yolo-slim" not in line]
    assert wide == []


def test_lines_of_ours_break_between_words_on_a_terminal_only(capsys: pytest.CaptureFixture) -> None:
    line = "asked for " + "many words " * 20
    Terminal(soft_wrap=True, force_terminal=True, width=40, color_system=None).print(line)
    shown = capsys.readouterr().out
    assert all(len(each) <= 40 for each in shown.splitlines()) and shown.split() == line.split()
    Terminal(soft_wrap=True, width=40).print(line)
    assert capsys.readouterr().out.rstrip("\n") == line


def test_python_m(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "yolo_slim", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert told.stdout == f"yolo-slim {__version__}\n"
    wrong = subprocess.run([sys.executable, "-m", "yolo_slim", "prun"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2 and "did you mean prune" in wrong.stderr


@pytest.mark.parametrize("words", [[], ["csh"], ["bash", "zsh"]], ids=str)
def test_a_shell_that_is_not_known(words: list[str]) -> None:
    refused(run("completion", *words), *SHELLS)


def completed(line: str, tmp_path: Path) -> list[str]:
    """What bash offers after a line is typed; words are parted at = as readline does."""
    words = [part for word in line.split(" ") for part in word.replace("=", " = ").split(" ")]
    code = (
        f"{completion('bash', STAGES)}\nCOMP_LINE={json.dumps(line)}; COMP_POINT=${{#COMP_LINE}}; "
        f"COMP_WORDS=({' '.join(map(json.dumps, words))}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); "
        'compopt() { :; }; _yolo_slim; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    told = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stderr == ""
    return told.stdout.split()


@pytest.mark.skipif(os.name == "nt", reason="bash")
@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("yolo-slim pru", ["prune"]),
        ("yolo-slim p", ["plan", "prune", "pack"]),
        ("yolo-slim prune prune.cri", ["prune.criterion="]),
        ("yolo-slim prune prune.fisher=", ["predicted", "labels"]),
        ("yolo-slim prune prune.scope=gl", ["global"]),
        ("yolo-slim run prune.target=null overwrite=t", ["true"]),
        ("yolo-slim export prune.cri", []),
        ("yolo-slim prune model=be", ["best.pt"]),
        ("yolo-slim prune be", ["best.pt"]),
        ("yolo-slim run --d", ["--dry-run"]),
        ("yolo-slim completion z", ["zsh"]),
    ],
)
def test_bash_completes_what_is_typed(line: str, offers: list[str], tmp_path: Path) -> None:
    (tmp_path / "best.pt").touch()
    assert sorted(completed(line, tmp_path)) == sorted(offers)


def test_fish_knows_every_stage_and_setting() -> None:
    lines = run("completion", "fish").out.splitlines()
    assert all(line.startswith(("#", "complete -c yolo-slim")) for line in lines)
    assert all(any(f"-a {stage} " in line for line in lines) for stage in STAGES)
    (line,) = (each for each in lines if "from prune'" in each and "prune.fisher=" in each)
    assert "prune.fisher=predicted prune.fisher=labels" in line and "which gradients" not in line
    assert "\\'" in "".join(lines), "apostrophes are escaped"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_is_sound_bash(shell: str) -> None:
    script = run("completion", shell).out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "bashcompinit" in script
