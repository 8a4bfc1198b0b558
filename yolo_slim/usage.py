"""What the command line says of itself: its stages, the settings of each, and their completion in a shell."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from yolo_slim.config import section
from yolo_slim.config.hints import members
from yolo_slim.stages import Stage

WIDTH = 80
"""Columns, where no terminal says how many there are."""

FLAGS = {
    "--dry-run": "say what would be done, and about how long it takes; nothing is written",
    "--quiet": "print nothing but what is wrong; what is said otherwise stands in <runs>/<name>/log.txt",
    "--help": "of a stage: its settings with their defaults",
    "--version": "of yolo-slim",
}
"""Words with dashes: about the command itself. All else is a setting."""

SHELLS = ("bash", "zsh", "fish")


def usage(stages: Mapping[str, Stage]) -> str:
    """What `yolo-slim` alone prints."""
    lines = [
        "yolo-slim STAGE [CONFIG.yaml] [key=value ...] [--dry-run] [--quiet]",
        "",
        *_wrapped("Makes a trained YOLOv3 or YOLOv5 detector smaller and faster. Stages:"),
        "",
        *(line for name, stage in stages.items() for line in _beside(name, stage.help)),
        "",
        *_wrapped(
            "Settings come from the YAML and from key=value words (dotted keys), which win. yolo-slim STAGE --help "
            "lists the settings of a stage with their defaults; yolo-slim init writes a YAML with all of them."
        ),
        "",
        *(line for flag, what in FLAGS.items() for line in _beside(flag, what)),
        "",
        *_wrapped(f"Completion of stages and settings: yolo-slim completion {'|'.join(SHELLS)}"),
        "",
        f"  {stages['run'].example}",
    ]
    return "\n".join(lines)


def stage_help(name: str, stage: Stage) -> str:
    """What `yolo-slim STAGE --help` prints."""
    lines = [f"yolo-slim {name} [CONFIG.yaml] [key=value ...] [--dry-run] [--quiet]", ""]
    lines += [*_wrapped(f"{stage.help[0].upper()}{stage.help[1:]}."), ""]
    for path in [[], *([each] for each in stage.sections)]:
        lines += _settings(section(path), path)
    return "\n".join([*lines, "Example:", *_wrapped(stage.example, "  ")])


def typed(value: Any) -> str:
    """A default as one may type it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _settings(model: Any, path: list[str]) -> list[str]:
    about = " ".join((model.__doc__ or "").split())
    lines, inner = _wrapped(f"{'.'.join(path)}: {about}" if path else "General:"), []
    for name, field in model.model_fields.items():
        deeper = section([*path, name])
        if deeper is not None and path:
            inner += _settings(deeper, [*path, name])
        elif deeper is None:
            shown = "needed" if field.is_required() else typed(field.default)
            lines += [f"  {'.'.join([*path, name])}  {shown}", *_wrapped(field.description or "", "      ")]
    return [*lines, "", *inner]


def _wrapped(text: str, indent: str = "") -> list[str]:
    width = max(shutil.get_terminal_size((WIDTH, 24)).columns, 40)
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _beside(name: str, what: str) -> list[str]:
    """A name, and what it is in a column of its own."""
    first, *others = _wrapped(what, " " * 16)
    return [f"  {name:14}{first[16:]}", *others]


def completion(shell: str, stages: Mapping[str, Stage]) -> str:
    """A script that completes stages, settings, and values to choose from, for a shell of `SHELLS`."""
    return _fish(stages) if shell == "fish" else _bash(stages)


def _keys(path: list[str]) -> Iterator[tuple[str, Any]]:
    """Dotted key and field of every setting at a place and below; of the first level the general ones alone."""
    for name, field in section(path).model_fields.items():  # type: ignore[union-attr]
        if section([*path, name]) is None:
            yield ".".join([*path, name]), field
        elif path:
            yield from _keys([*path, name])


def _of(stage: Stage) -> list[tuple[str, Any]]:
    return [entry for path in [[], *([name] for name in stage.sections)] for entry in _keys(path)]


def _values(field: Any) -> list[str]:
    """What a setting is chosen from, if that can be listed."""
    found: list[str] = []
    for each in members(field.annotation):
        if each is bool:
            found += ["true", "false"]
        elif get_origin(each) is Literal:
            found += map(str, get_args(each))
        elif each is type(None):
            found.append("null")
    return found


_BASH = """\
# Completion of yolo-slim for {shells}: eval "$(yolo-slim completion {shell})"
_yolo_slim() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" words="" values="" cur
  cur="${{line##* }}"
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  if [[ "$COMP_CWORD" -le 1 ]]; then
    words="{stages}"
  elif [[ "$cur" == -* ]]; then
    words="--dry-run --quiet --help"
  elif [[ "$cur" == *=* ]]; then
    words="$values"
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [[ "$cur" == *=* && ${{#COMPREPLY[@]}} -eq 0 ]]; then
    COMPREPLY=($(compgen -P "${{cur%%=*}}=" -f -- "${{cur#*=}}"))
  elif [[ "$COMP_CWORD" -gt 1 && "$cur" != *=* ]]; then
    COMPREPLY+=($(compgen -f -- "$cur"))
  fi
  if [[ -n "$BASH_VERSION" ]]; then
    [[ ${{#COMPREPLY[@]}} -eq 1 && "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace
    # Bash takes what follows a = for a word of its own.
    [[ "$cur" == *=* ]] && COMPREPLY=("${{COMPREPLY[@]#"${{cur%%=*}}="}}")
  fi
  return 0
}}
{load}complete -o filenames -F _yolo_slim yolo-slim"""


def _bash(stages: Mapping[str, Stage]) -> str:
    cases = []
    for name, stage in stages.items():
        keys = _of(stage)
        words = " ".join(f"{key}=" for key, _ in keys)
        values = " ".join(f"{key}={value}" for key, field in keys for value in _values(field))
        cases.append(f'    {name}) words="{words}"; values="{values}" ;;')
    cases.append(f'    completion) words="{" ".join(SHELLS)}" ;;')
    return _BASH.format(
        cases="\n".join(cases),
        stages=" ".join([*stages, "completion", "--help", "--version"]),
        shells="bash and zsh",
        shell="bash",
        load='[[ -n "$ZSH_VERSION" ]] && autoload -U +X bashcompinit && bashcompinit\n',
    )


def _fish(stages: Mapping[str, Stage]) -> str:
    lines = ["# Completion of yolo-slim for fish: yolo-slim completion fish | source", "complete -c yolo-slim -f"]
    for name, what in [*((n, s.help) for n, s in stages.items()), ("completion", "a script for a shell")]:
        lines.append(f"complete -c yolo-slim -n __fish_use_subcommand -a {name} -d {_quoted(what)}")
    lines.append(f"complete -c yolo-slim -n '__fish_seen_subcommand_from completion' -a '{' '.join(SHELLS)}'")
    for name, stage in stages.items():
        begun = f"complete -c yolo-slim -n '__fish_seen_subcommand_from {name}'"
        lines.append(f"{begun} -F")
        for key, field in _of(stage):
            words = " ".join([f"{key}=", *(f"{key}={value}" for value in _values(field))])
            lines.append(f"{begun} -a '{words}' -d {_quoted(field.description or '')}")
    for flag in ("dry-run", "quiet", "help"):
        lines.append(f"complete -c yolo-slim -l {flag} -d {_quoted(FLAGS[f'--{flag}'])}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
