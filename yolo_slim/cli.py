"""yolo-slim STAGE [CONFIG.yaml] [key=value ...] [--dry-run] [--quiet]"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from difflib import get_close_matches
from typing import TYPE_CHECKING

from yolo_slim import terminal, usage
from yolo_slim.errors import NO_MEMORY, REASONS, SlimError, check_file, out_of_memory, plain, why
from yolo_slim.stages import STAGES

if TYPE_CHECKING:
    from yolo_slim.config import Config

MODELS = (".pt", ".cfg", ".weights", ".onnx", ".torchscript", ".engine", ".tflite", ".mlpackage", "_model", ".yslim")
"""How a detector's name ends, and an export's: given without `model=`, it is what to look at."""


DRY_RUN, QUIET = "--dry-run", "--quiet"

OF_A_FILE = ("finetune", "export", "bench", "report")
"""Stages that take a slim file of no run as well, which they have to look into to know what is left open."""


def main(argv: list[str] | None = None) -> int:
    """The command line; returns its exit code: 0 done, 2 wrong input, 130 Ctrl-C, 143 ended, 141 nobody reads on."""
    words = list(sys.argv[1:] if argv is None else argv)
    terminal.prepare()
    # No analytics, no integrations, no look-ups: nothing here goes online, and checkpoints load restricted.
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "1")
    try:
        with terminal.ending():
            code = _main(words)
        sys.stdout.flush()
        return code
    except SlimError as e:
        return _told(str(e), 2)
    except KeyboardInterrupt as e:
        how, code = ("ended", e.code) if isinstance(e, terminal.Ended) else ("interrupted", 130)
        return _told(f"{how}; the same command goes on from here", code, before="\n")
    except BrokenPipeError:  # `| head` has seen enough
        terminal.leave()
        return 141
    except OSError as e:
        if e.errno not in REASONS:
            raise
        return _told(f"{plain(e.filename or 'a file')}: {why(e)}", 2)
    except (MemoryError, RuntimeError) as e:
        if not out_of_memory(e):
            raise
        return _told(NO_MEMORY, 2)


def _told(message: str, code: int, before: str = "") -> int:
    try:
        print(terminal.wrapped(f"{before}yolo-slim: {message}", sys.stderr), file=sys.stderr)
    except BrokenPipeError:
        terminal.leave()
    return code


def _main(words: list[str]) -> int:
    flags, words = [w for w in words if w in (QUIET, DRY_RUN)], [w for w in words if w not in (QUIET, DRY_RUN)]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage.usage(STAGES))
        return 0
    if words[0] in ("-V", "--version"):
        from yolo_slim import __version__

        print(f"yolo-slim {__version__}")
        return 0
    stage, rest = words[0], words[1:]
    if stage == "completion":
        print(usage.completion(_shell(rest), STAGES))
        return 0
    if stage not in STAGES:
        near = get_close_matches(stage, STAGES, n=1)
        raise SlimError(
            f"unknown stage {stage!r}"
            + (f"; did you mean {near[0]}?" if near else "")
            + f" Stages: {', '.join(STAGES)}"
        )
    if any(w in ("-h", "--help") for w in rest):
        print(usage.stage_help(stage, STAGES[stage]))
        return 0
    if unknown := [w for w in rest if w.startswith("-")]:
        raise SlimError(
            f"expected key=value, got {unknown[0]}; settings have no dashes: yolo-slim {stage} --help lists them "
            f"(with dashes there are {DRY_RUN}, {QUIET} and --help)"
        )
    with terminal.silent() if QUIET in flags else nullcontext():
        _carry_out(stage, configured(rest), dry=DRY_RUN in flags)
    return 0


def _carry_out(stage: str, config: Config, *, dry: bool) -> None:
    from yolo_slim.runs.given import complete

    if stage not in OF_A_FILE:
        config = complete(config)
    if dry:
        from yolo_slim.stages.forecast import foresee

        foresee(stage, STAGES[stage], config)
    else:
        STAGES[stage](config)


def _shell(words: list[str]) -> str:
    if len(words) != 1 or words[0] not in usage.SHELLS:
        raise SlimError(
            f"expected one of {', '.join(usage.SHELLS)}, e.g. yolo-slim completion bash, "
            f"got {' '.join(words) or 'none of them'}"
        )
    return words[0]


def configured(rest: list[str]) -> Config:
    """What the words after the stage say: a YAML, or a checkpoint or an export to look at, and key=value words.

    Raises:
        SlimError: more than one file, or settings that are wrong.
    """
    files, settings = [w for w in rest if "=" not in w], [w for w in rest if "=" in w]
    if len(files) > 1:
        raise SlimError(f"expected one configuration and key=value words, got {' and '.join(files)}")
    if files and files[0].rstrip("/").lower().endswith(MODELS):
        files, settings = [], [f"model={files[0]}", *settings]
    from yolo_slim.config import read_config

    config = read_config(files[0] if files else None, settings)
    for key in ("model", "weights", "data"):
        if path := getattr(config, key):
            check_file(path, f"what {key} names")
    return config


if __name__ == "__main__":
    sys.exit(main())
