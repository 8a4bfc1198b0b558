"""Real checkpoints, broken: bytes on their way, and content that torch reads and that no training writes."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fuzzing.case import PLANTED, Case
from fuzzing.damage import BYTES, is_whole
from fuzzing.pickles import CORPUS

FILES = ["slim-once.pt", "slim-twice.pt", "v5-8.0.196-final.pt", "v8-8.2.0-final.pt", "v3-tiny-8.3.0-midway.pt",
         "v5-8.4.190-midway.pt", "v11-8.3.0-final.pt"]  # fmt: skip
WAYS = (["inspect", "x.pt", "imgsz=64"], ["inspect", "x.pt", "imgsz=64"], ["load", "x.pt"],
        ["prune", "model=x.pt", "imgsz=64", "prune.ratio=0.3", "prune.min_channels=1", "prune.round_to=1"])  # fmt: skip


def case(rng: random.Random, work: Path) -> Case:
    """Bytes in two of five, content in the rest."""
    name = rng.choice(FILES)
    words = list(rng.choice(WAYS))
    if rng.random() < 0.4:
        raw = (CORPUS / name).read_bytes()
        deed = rng.choice(BYTES)
        broken = deed(rng, raw)
        (work / "x.pt").write_bytes(broken)
        return Case(words, f"{name} {deed.__name__}", never=not is_whole(broken))
    ckpt = torch.load(CORPUS / name, weights_only=False)
    told, never = "", False
    while not told:  # a deed may find nothing to be done to
        deed = rng.choice(DEEDS)
        told, never = deed(rng, ckpt) or ("", False)
    try:
        torch.save(ckpt, work / "x.pt")
    except Exception as e:  # what cannot be written is no case
        return Case(["load", "missing.pt"], f"{name} {told}: not written, {type(e).__name__}")
    return Case(words, f"{name} {told}", never=never)


# ---------------------------------------------------------------------------------------------------------------------
# Content: each deed says what it did, and whether to accept it is a fault

Told = tuple[str, bool] | None


def odd(rng: random.Random) -> Any:
    """A value of any type but the right one."""
    knot: list = []
    knot.append(knot)
    deep: Any = {}
    for _ in range(rng.choice([5, 90])):
        deep = [deep]
    return rng.choice(
        [None, True, 0, -1, 1, 7, 10**6, 2**63, 10**400, 0.5, -1.0, 1e308, float("nan"), float("inf"), "", "x", "\x00",
         PLANTED, "ü" * 300, b"x", [], {}, (), set(), [[]], [None], {"a": {}}, {None: 1}, {1: 2}, knot, deep,
         torch.zeros(0), torch.tensor(float("nan")), torch.zeros(3, dtype=torch.int8), torch.tensor([8.0, 16.0]),
         torch.zeros(1).expand(10**6, 10**5), OrderedDict(x=1), datetime(2026, 1, 1), nn.Identity(), torch.float16,
         torch.Size([3]), ["a", "b"], {0: "a", 1: "a"}, {0: 1}, {-1: "a"}, "1" * 5000]
    )  # fmt: skip


def detectors(ckpt: dict) -> list[nn.Module]:
    """Those in a checkpoint."""
    return [ckpt[key] for key in ("model", "ema") if isinstance(ckpt.get(key), nn.Module)]


def the_one(ckpt: dict) -> nn.Module | None:
    """That which is read."""
    return next(iter(detectors(ckpt)[::-1]), None)


def shown(value: object) -> str:
    """Of any size."""
    try:
        return f"{type(value).__name__} {value!r:.40}"
    except Exception:
        return type(value).__name__


def an_entry(rng: random.Random, ckpt: dict) -> Told:
    """Of the checkpoint's dict."""
    key = rng.choice(["model", "ema", "train_args", "epoch", "optimizer", "best_fitness", "date", "version",
        "yolo_slim",
                      "updates", "scaler", "extra", 3, None])  # fmt: skip
    if rng.random() < 0.2:
        ckpt.pop(key, None)
        return f"without {key}", False
    value = ckpt[key] = odd(rng)
    return f"{key} = {shown(value)}", False


def a_model_field(rng: random.Random, ckpt: dict) -> Told:
    """What Ultralytics pins on a detector."""
    name = rng.choice(["yaml", "names", "names", "stride", "stride", "args", "task", "save", "inplace", "nc", "end2end",
                       "training", "criterion", "pt_path", "channels"])  # fmt: skip
    if (detector := the_one(ckpt)) is None:
        return None
    value = odd(rng)
    detector.__dict__[name] = value
    return f"model.{name} = {shown(value)}", False


def a_yaml_field(rng: random.Random, ckpt: dict) -> Told:
    """Of the description that a detector carries."""
    detector = the_one(ckpt)
    if detector is None or not isinstance(getattr(detector, "yaml", None), dict):
        return None
    yaml = detector.yaml = copy.deepcopy(detector.yaml)
    path = rng.choice([("nc",), ("backbone",), ("head",), ("slim",), ("slim", "full"), ("slim", "cuts"), ("scales",),
                       ("ch",), ("channels",), ("slim", "full", "backbone"), ("slim", "full", "head"), ("activation",),
                       ("depth_multiple",), ("scale",), ("backbone", 0), ("head", -1), ("slim", "cuts", 0),
                       ("slim", "full", "backbone", 0)])  # fmt: skip
    place = yaml
    for key in path[:-1]:
        try:
            place = place[key]
        except (KeyError, IndexError, TypeError):
            return None
    value = rng.choice([odd(rng), [[-1, 10**7, "Conv", [64, 3, 2]]], [[-1, 1, "Conv", [10**9, 3, 2]]],
                        {"backbone": [[-1, 10**7, "Conv", [8]]], "head": []}, [{"model.0.conv": [10**9, -5, "x"]}],
                        [{"no.such": [0]}], [{"model.0.conv": []}],
                        "__import__('os').system('touch fuzzcanary')"])  # fmt: skip
    try:
        place[path[-1]] = value
    except (IndexError, TypeError):
        return None
    return f"model.yaml[{path}] = {shown(value)}", False


def a_module(rng: random.Random, ckpt: dict, kind: type | tuple = nn.Module) -> tuple[str, nn.Module] | None:
    """Any in the detector that is read."""
    if (detector := the_one(ckpt)) is None:
        return None
    return rng.choice([found for found in detector.named_modules() if isinstance(found[1], kind)] or [None])


def an_attribute(rng: random.Random, ckpt: dict) -> Told:
    """Of any module, its kind's own or torch's."""
    if (found := a_module(rng, ckpt)) is None:
        return None
    usual = ["i", "f", "type", "np", "stride", "kernel_size", "padding", "dilation", "groups", "in_channels", "eps",
             "out_channels", "momentum", "num_features", "nc", "nl", "reg_max", "no", "c", "d", "size", "scale_factor",
             "mode", "inplace", "add", "training", "padding_mode", "track_running_stats", "legacy",
             "dynamic"]  # fmt: skip
    own = [name for name in found[1].__dict__ if not name.startswith("_")]
    name = rng.choice(own or usual) if rng.random() < 0.7 else rng.choice(usual)
    value = odd(rng)
    found[1].__dict__[name] = value
    return f"{found[0]}.{name} = {shown(value)}", False


def a_hidden_method(rng: random.Random, ckpt: dict) -> Told:
    """An attribute of an object stands before a method of its class."""
    if (found := a_module(rng, ckpt)) is None:
        return None
    name = rng.choice(["forward", "parameters", "named_modules", "modules", "state_dict", "float", "half", "to", "eval",
                       "train", "requires_grad_", "_predict_once", "predict", "fuse", "apply", "_apply", "children",
                       "get_submodule", "__call__", "__class__", "__dict__", "_call_impl", "named_children",
                       "forward_fuse", "forward_split", "__getattr__", "extra_repr", "loss", "is_fused"])  # fmt: skip
    value = rng.choice([odd(rng), nn.Identity(), nn.Sequential(), torch.zeros(2)])
    found[1].__dict__[name] = value
    return f"{found[0]}.{name} = {shown(value)}", False


def torchs_own(rng: random.Random, ckpt: dict) -> Told:
    """The dicts that make a module a module."""
    if (found := a_module(rng, ckpt)) is None:
        return None
    name = rng.choice(["_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks",
                       "_state_dict_hooks", "_load_state_dict_pre_hooks", "_non_persistent_buffers_set",
                       "_forward_hooks_with_kwargs", "_backward_pre_hooks", "_is_full_backward_hook"])  # fmt: skip
    if rng.random() < 0.2:
        found[1].__dict__.pop(name, None)
        return f"{found[0]} without {name}", False
    value = rng.choice(
        [odd(rng), {}, OrderedDict({0: nn.ReLU()}), OrderedDict({0: "x"}), OrderedDict({"x": torch.zeros(2)})]
    )
    found[1].__dict__[name] = value
    return f"{found[0]}.{name} = {shown(value)}", False


def another_module(rng: random.Random, ckpt: dict) -> Told:
    """In the place of one, or none, or itself."""
    found = a_module(rng, ckpt)
    if found is None or not found[0]:
        return None
    detector = the_one(ckpt)
    parent, _, name = found[0].rpartition(".")
    deep: nn.Module = nn.Identity()
    for _ in range(rng.choice([3, 80])):
        deep = nn.Sequential(deep)
    new = rng.choice(
        [None, detector, detector.get_submodule(parent), nn.InstanceNorm2d(8), nn.GroupNorm(1, 8), nn.LSTM(8, 8), deep,
         nn.MultiheadAttention(8, 1), nn.Conv3d(8, 8, 1), nn.ConvTranspose2d(8, 8, 2), nn.Dropout(0.5), nn.Linear(8, 8),
         nn.Upsample(scale_factor=1e5), nn.MaxPool2d(10**6), nn.ZeroPad2d(10**6), nn.Conv2d(8, 8, 1, dilation=10**5),
         nn.Conv2d(8, 8, 1, padding=10**5), nn.Sequential(), nn.ModuleList(), nn.ModuleDict(), nn.Embedding(8, 8),
         nn.LayerNorm(8), nn.BatchNorm2d(8, affine=False), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(),
         nn.BatchNorm1d(8), nn.Conv2d(8, 8, 3, padding_mode="circular"), nn.LazyConv2d(8, 1), 3, "x", [], {}]
    )  # fmt: skip
    detector.get_submodule(parent)._modules[name] = new
    return f"{found[0]} = {shown(new)}", False


def numbers(rng: random.Random, ckpt: dict) -> Told:
    """A weight, a scale or a statistic that is no number: to take it is to lie."""
    found = a_module(rng, ckpt, (nn.Conv2d, nn.BatchNorm2d))
    if found is None:
        return None
    tensors = {**dict(found[1].named_parameters(recurse=False)), **dict(found[1].named_buffers(recurse=False))}
    name = rng.choice([name for name, t in tensors.items() if t.is_floating_point() and t.numel()] or [""])
    if not name:
        return None
    value = rng.choice([float("nan"), float("inf"), float("-inf")])
    flat = tensors[name].data.view(-1)
    flat[rng.randrange(len(flat))] = value
    overflown = name == "running_var" and value == float("inf") and tensors[name].dtype == torch.float16
    return f"{found[0]}.{name} holds {value}", not overflown  # which is clamped: so Ultralytics leaves a large one


def a_tensor(rng: random.Random, ckpt: dict) -> Told:
    """Of another type, shape, layout or device."""
    found = a_module(rng, ckpt, (nn.Conv2d, nn.BatchNorm2d))
    if found is None:
        return None
    places = [(store, name) for store in ("_parameters", "_buffers") for name in found[1].__dict__[store]]
    store, name = rng.choice(places)
    old = found[1].__dict__[store][name]
    if old is None:
        return None
    old = old.detach()
    how, new = rng.choice(
        [("int", old.int()), ("long", old.long()), ("bool", old.bool()), ("double", old.double()), ("none", None),
         ("bfloat16", old.bfloat16()), ("complex", old.to(torch.complex64)), ("empty", old[:0] if old.dim() else old),
         ("scalar", torch.tensor(1.0)), ("flat", old.reshape(-1)), ("one more", torch.cat([old.view(-1)] * 2)),
         ("5-d", old[None]), ("meta", old.to("meta")), ("uint8", old.byte()), ("sparse", old.float().to_sparse()),
         ("a bomb", torch.zeros(1).expand(10**5, 10**5)), ("stride 0", torch.zeros(()).expand(old.shape)),
         ("huge", old.float() * 0 + 3e38), ("text", "x"), ("list", [1.0]), ("negative", -old.float().abs() - 1)]
    )  # fmt: skip
    if isinstance(new, torch.Tensor) and store == "_parameters":
        new = nn.Parameter(new, requires_grad=False)
    found[1].__dict__[store][name] = new
    return f"{found[0]}.{name}: {how}", False


def not_a_checkpoint(rng: random.Random, ckpt: dict) -> Told:
    """A state dict, a list, only the detector."""
    detector = the_one(ckpt)
    content = rng.choice([detector.state_dict() if detector else {},
        {"model": detector.state_dict() if detector else 1},
                          {"state_dict": {}}, {"model": [detector]}, {"model": {"model": detector}},
                          {"model": nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))}])  # fmt: skip
    ckpt.clear()
    ckpt.update(content)
    return f"only {list(ckpt)[:3]}", False


DEEDS: list[Callable[[random.Random, dict], Told]] = [
    an_entry, a_model_field, a_yaml_field, an_attribute, an_attribute, a_hidden_method, torchs_own, another_module,
    numbers, a_tensor, not_a_checkpoint,
]  # fmt: skip
