"""Settings in YAML and in words: wrong values in right places, right ones in wrong places, texts that are no YAML."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ultralytics.utils import DEFAULT_CFG_DICT

from fuzzing.case import PLANTED, Case
from fuzzing.datasets import drawn
from fuzzing.exports import TEXTS, mutated
from fuzzing.pickles import CORPUS
from yolo_slim.stages import STAGES

TEMPLATE = Path(__file__).parents[2] / "configs" / "template.yaml"
"""Has every setting."""
REAL = ("prune", "prune", "prune", "inspect")
"""Stages that are run; of the others the settings are read."""

ODD = [
    "", "null", "~", "true", "yes", "off", "0", "-1", "1", "3", "7", "32", "64", "33", "0.5", "-0.5", "1.5", "1e3",
    "1e-9",
    "1e400", "-1e400", ".inf", "-.inf", ".nan", "9" * 19, "9" * 30, "9" * 400, "9" * 4301, "-" + "9" * 5000, "0x10",
    "0o17",
    "1_000", "0b1", "1:30", "2021-02-30", "2021-02-28", "2021-02-28 25:00:00", "!!int x", "!!float x", "!!timestamp x",
    "!!bool x", "!!null x", "!!binary '*'", "!!set {a}", "!!omap [a]",
    "!!python/object/apply:os.system [touch fuzzcanary]",
    "!!python/name:os.system", "!x y", "x", "auto", "none", "None", "nan", "inf", "cpu", "0,1", "cuda:0", "mps", "-",
    "[]", "{}", "[[]]", "[{}]", "[null]", "[1]", "[x]", "[0.5]", "[0.5, 0.5]", "[.nan]", "[-1, 2]", "[[[[[]]]]]",
    "[true]",
    "{a: 1}", "{a: {b: {c: []}}}", "{1: 2}", "{null: 1}", "{[1]: 2}", "{a: 1, a: 2}", "{model.2.*: 0.3}",
    "{flops: 0.5}",
    "{flops: [1]}", "{flops: .nan}", "{x: 0.5, flops: 0.5}", "'", '"', "'x", "[", "{", "[1", "{a", "&a [*a]", "*a",
    "&a x",
    "a: b", "a: b: c", "- x", "? x", "|", ">", "%", "@x", "`x`", "#x", "x #y", "<<", "{<<: 1}", "\x00", "'\\0'",
    '"\\0"',
    '"\\ud800"', '"\\x1b[7;35m"', PLANTED, "\x7f", "\u2028", "\ufeff", "ü", "🦆", "../../x", "/", ".", "..", "x/y",
    "~/x",
    "x" * 300, "x" * 70000, "[" * 1000, "[" * 30000, "{a: " * 1000, "- " * 3000, "([a-z]+)+$", "*" * 50, "[*",
    "model.[",
    "os:system", "os:getcwd", "x:y", ":", "x.py:f", "http://127.0.0.1:9/x.yaml", "$HOME", "%s", "{0}", "torch", "l1",
    "obs",
    "random", "group_lasso", "onnx", "[onnx, onnx]", "[onnx, 3]", "2**63", "1/2", "50%", "0,5", "x.pt", "best.pt",
    "data.yaml",
]  # fmt: skip
"""Values as one types them."""


NEAR = [
    "0", "-1", "1", "2", "8", "64", "0.1", "0.5", "1.0", "1.5", "-0.5", "1e-9", "1e9", "1e30", ".inf", ".nan", "true",
    "false",
    "null", "none", "auto", "x", "[0]", "[1, 2]", "[0.5]", "{a: 1}", "1000000", "2147483648", "''", "'1'", "l1", "l2",
    "cpu",
]  # fmt: skip
"""Values of the right type, or nearly."""


def a_value(rng: random.Random) -> str:
    """As one types it."""
    return rng.choice(rng.choice([ODD, NEAR]))


def keys(tree: Any, path: str = "") -> Iterator[str]:
    """Dotted names of all settings and sections."""
    for name, value in tree.items():
        yield f"{path}{name}"
        if isinstance(value, dict):
            yield from keys(value, f"{path}{name}.")


KEYS = [*keys(yaml.safe_load(TEMPLATE.read_text())), "prune.ratio", "prune.target.params", "prune.target.latency",
        "prune.target.size_mb", "prune.target.latency_ms", "prune.depth.blocks", "prune.depth.score",
        "finetune.distill.outputs", "finetune.distill.layers", "finetune.distill.ramp_epochs", "latency", "sweep",
        "finetune.distill.stop_before", "finetune.distill.teacher_images", "finetune.distill.extra_images"]  # fmt: skip


def a_key(rng: random.Random) -> str:
    """Mostly one that there is."""
    key = rng.choice(KEYS)
    if rng.random() < 0.85:
        return key
    return rng.choice(
        [key + "s", key.upper(), key + ".x", key.replace(".", ".."), key[:-1], "." + key, key + ".", "", "x",
        "__class__",
         "prune.__init__", "model_config", "prune.model_fields", key.replace(".", "_"), key + " ", "ü", "a.b.c.d.e"]
    )  # fmt: skip


def nested(key: str, value: str) -> str:
    """A setting as lines of YAML."""
    parts = key.split(".")
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)]
    return "\n".join(lines) + f" {value}\n"


def start(rng: random.Random, work: Path) -> str:
    """A stage, and its detector in the folder."""
    shutil.copyfile(CORPUS / "slim-once.pt", work / "x.pt")
    return rng.choice([*REAL, *REAL, *STAGES])


def case(rng: random.Random, work: Path) -> Case:
    """One to three settings among right ones, or a whole text."""
    stage = start(rng, work)
    right = ["model=x.pt", "imgsz=64", "prune.ratio=0.3", "prune.min_channels=1", "prune.round_to=1"]
    how = rng.random()
    if how < 0.45:
        wrong = [f"{a_key(rng)}={a_value(rng)}" for _ in range(rng.choice([1, 1, 2, 3]))]
        wrong += rng.choice(
            [[], [], [], ["x"], ["=1"], ["--x=1"], ["a.yaml", "b.yaml"], ["missing.yaml"], [".", "x=1"]]
        )
        words = [*right, *wrong]
        rng.shuffle(words)
        told = " ".join(wrong)
    else:
        (work / "c.yaml").write_bytes(a_text(rng, how))
        words, told = ["c.yaml", *right], f"YAML {how:.2f}"
    words = [word.replace("\x00", "\\0") for word in words]  # no command line can hold it
    return Case([stage, *words], f"{stage} {told[:200]}", dry=stage not in REAL)


def a_text(rng: random.Random, how: float) -> bytes:
    """Of a configuration."""
    pairs = [(a_key(rng), a_value(rng)) for _ in range(rng.choice([1, 1, 2, 4]))]
    if how < 0.7:
        return "".join(nested(*pair) for pair in pairs).encode(errors="surrogatepass")
    template = "model: x.pt\nimgsz: 64\ndevice:" + TEMPLATE.read_text().split("\ndevice:")[1]
    if how < 0.85:
        return mutated(rng, template.encode())
    if how < 0.93:
        return rng.choice(TEXTS)
    lines = template.splitlines()
    return rng.choice([
        "\r\n".join(lines).encode(), template.encode("utf-16"), template.encode("latin-1", "replace"),
        b"\xef\xbb\xbf" + template.encode(),
        template.replace("  ", "\t").encode(), (template + template).encode(),
        ("---\n" + template + "---\n" + template).encode(),
        "\n".join(rng.sample(lines, len(lines))).encode(), b"- " + template.encode(), template.replace(":",
            "=").encode(),
        template.encode() + b"prune: {ratio: 0.5}\n", b"{" + template.encode(), b"\x00" * 100, b"x" * 10**6,
        b"k: v\n" * 10**4,
        b"".join(b"k%d: v\n" % i for i in range(10**4)), b"model: [" + b"x," * 10**5 + b"]",
    ])  # fmt: skip


def benign(rng: random.Random, work: Path) -> Case:
    """Right values, and texts that look like something else."""
    stage = start(rng, work)
    words = rng.sample(
        ["runs=out #3", "name=20240101", "prune.criterion=l2", "prune.scope=layer", "prune.exclude=[model.0]", "seed=7",
         "prune.layers={model.2.*: 0.2}", "prune.min_keep=0.2", "finetune.epochs=1e1", "finetune.distill=null",
         "sweep.flops=[0.8,0.6]", "bench=null", "prune.normalize=lamp", "prune.depth={blocks: 0}",
             "export.formats=[onnx]",
         "finetune.train={batch: 4, lr0: 0.01}", "device=cpu", "runs=it's", "prune.target=null",
             "finetune.train.batch=8",
         "prune.iterations={rounds: 1}", "runs=2", "prune.seed=123456789", "finetune.train.optimizer=SGD"], 3
    )  # fmt: skip
    words = [word for word in words if word != "finetune.epochs=1e1" or stage not in REAL]
    right = ["model=x.pt", "imgsz=64", "prune.ratio=0.3", "prune.min_channels=1", "prune.round_to=1"]
    if rng.random() < 0.5:
        tree = "".join(nested(*pair.split("=", 1)) for pair in right if not pair.startswith("prune."))
        (work / "c.yaml").write_text(tree + "prune:\n  ratio: 0.3\n  min_channels: 1\n  round_to: 1\n")
        right = ["c.yaml"]
    return Case([stage, *right, *words], f"{stage} {words}", benign=True, dry=stage not in REAL)


TRAINED = ["sparse-train", "model=x.pt", "data=shapes/shapes.yaml", "imgsz=64", "sparse_train.mode=uniform",
           "sparse_train.epochs=1"]  # fmt: skip


def training(rng: random.Random, work: Path) -> Case:
    """Ultralytics' own arguments, for an epoch; compile alone is left out: it calls a compiler."""
    start(rng, work)
    drawn(work)
    names = [rng.choice(sorted(DEFAULT_CFG_DICT.keys() - {"compile"})) for _ in range(rng.choice([1, 1, 2]))]
    wrong = [f"{name}: {a_value(rng)[:500]}" for name in names]
    if rng.random() < 0.2:
        wrong = [rng.choice(["classes: [99]", "freeze: 1000000", "batch: .nan", "optimizer: x", "lr0: -1", "box: .nan",
                             "batch: 10**9", "workers: 10000", "momentum: 2", "close_mosaic: -5", "mosaic: 7",
                             "lr0: 1e30",
                             "single_cls: true", "fraction: 0.0001", "nbs: 0", "warmup_epochs: -3", "cache: disk",
                             "optimizer: Rprop", "pretrained: http://127.0.0.1:9/x.pt", "freeze: [0,1,2,3]",
                             "cls: .inf",
                             "multi_scale: true", "time: 0.00001", "patience: 0"])]  # fmt: skip
    told = ", ".join(wrong)
    return Case([*TRAINED, f"sparse_train.train={{{told}, workers: 0}}".replace("\x00", "")], told[:200], seconds=60)


def benign_training(rng: random.Random, work: Path) -> Case:
    """Right ones."""
    start(rng, work)
    drawn(work)
    right = rng.sample(["batch: 4", "lr0: 0.001", "optimizer: SGD", "mosaic: 0.0", "freeze: 1", "cos_lr: true",
        "fliplr: 0.0",
                        "weight_decay: 0.001", "patience: 5", "rect: false", "dropout: 0.0"], 3)  # fmt: skip
    told = ", ".join(right)
    return Case([*TRAINED, f"sparse_train.train={{{told}, workers: 0}}"], told, benign=True, seconds=60)
