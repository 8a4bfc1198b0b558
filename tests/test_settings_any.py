"""Any text gives settings or one message; and settings as words read as themselves."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from yolo_slim.config import Config, check, read_config, words
from yolo_slim.errors import SlimError

SOME = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PIECES = st.sampled_from(
    ["model: a.pt\n", "prune:", " ", "\n", "- ", "[", "]", "{", "}", "&a ", "*a", "<<: ", "!!int ", "? ", ": ",
     "'", '"',
     "\t", "null", "1e3", ".nan", "---\n", "...", "%YAML 1.1\n", "|", ">", "#", "\0", "\u2028", "ratio", "train",
     "finetune", "distill", "features", ",", "yes", "0x", "9" * 50, "\\U00110000", "data", "layers", "exclude", "\r",
     "\x85"]
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.lists(PIECES, max_size=25).map("".join), SOME))
@example(text="? - a\n: b")
@example(text="&a : *a")
def test_any_file_gives_settings_or_one_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(read_config(path, []), Config)
    except SlimError as e:
        assert str(e).replace("\n", "").isprintable()


KEYS = ["model", "name", "runs", "data", "imgsz", "prune", "prune.layers", "prune.target", "finetune.distill.features"]


@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from(KEYS) | SOME, text=st.one_of(st.lists(PIECES, max_size=10).map("".join), SOME))
def test_any_word_gives_settings_or_one_message(key: str, text: str) -> None:
    try:
        assert isinstance(read_config(None, ["model=a.pt", f"{key}={text}"]), Config)
    except SlimError as e:
        assert str(e).replace("\n", "").isprintable()


PATHS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20).filter(str.strip)
TYPED = st.fixed_dictionaries(
    {"model": PATHS},
    optional={
        "runs": PATHS,
        "data": PATHS | st.none() | st.sampled_from(["null", "~", "''", '"x"', "yes", "1e5"]),
        "imgsz": st.sampled_from([32, 640]),
        "device": st.sampled_from(["cpu", "0", "0,1"]),
        "prune": st.fixed_dictionaries(
            {},
            optional={
                "criterion": PATHS | st.none(),
                "ratio": st.floats(0.001, 0.999),
                "exclude": st.lists(PATHS, max_size=3),
                "layers": st.dictionaries(PATHS, st.floats(0, 1), max_size=3),
                "depth": st.none() | st.fixed_dictionaries({"blocks": st.just("auto") | st.integers(0, 9)}),
            },
        ),
        "finetune": st.fixed_dictionaries(
            {},
            optional={
                "distill": st.none()
                | st.fixed_dictionaries(
                    {
                        "teacher": PATHS | st.lists(PATHS, min_size=1, max_size=2),
                        "layers": st.none() | st.lists(PATHS, max_size=2) | st.dictionaries(PATHS, PATHS, max_size=2),
                    }
                )
            },
        ),
        "bench": st.none(),
    },
)


@settings(max_examples=300, deadline=None)
@given(values=TYPED)
@example(values={"model": "a\u200b\U0001f680.pt", "prune": {"exclude": ["a\u202eb"]}})
def test_words_read_as_what_they_were_made_from_through_a_shell_too(values: dict[str, Any]) -> None:
    config = check(values)
    typed = words(config.model_dump(exclude_defaults=True))
    assert "".join(typed).isprintable()
    assert read_config(None, shlex.split(shlex.join(typed))) == config
