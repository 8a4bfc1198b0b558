"""Pickles by hand: what a hostile file may ask for, and every way that opcodes have to ask for it."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable

Call = tuple[str, str, tuple]
"""Module, name, arguments."""

HTTP = "http://127.0.0.1:9/fuzzcanary.pt"

SEEN: list[Call] = [  # their effect is an audited event, more memory than there may be, or a deed of `second.pt`
    ("os", "system", ("touch fuzzcanary",)),
    ("posix", "system", ("touch fuzzcanary",)),
    ("nt", "system", ("touch fuzzcanary",)),
    ("subprocess", "Popen", (["touch", "fuzzcanary"],)),
    ("subprocess", "check_output", (["touch", "fuzzcanary"],)),
    ("subprocess", "getoutput", ("touch fuzzcanary",)),
    ("os", "popen", ("touch fuzzcanary",)),
    ("os", "execv", ("/bin/touch", ["touch", "fuzzcanary"])),
    ("os", "posix_spawn", ("/bin/touch", ["touch", "fuzzcanary"], {})),
    ("pty", "spawn", (["touch", "fuzzcanary"],)),
    ("builtins", "exec", ("fuzzcanary = 1",)),
    ("builtins", "eval", ("__import__('os').system('touch fuzzcanary')",)),
    ("__builtin__", "eval", ("[c for c in [1] if 'fuzzcanary']",)),
    ("builtins", "__import__", ("fuzzcanary_module",)),
    ("importlib", "import_module", ("fuzzcanary_module",)),
    ("runpy", "run_path", ("fuzzcanary_module.py",)),
    ("builtins", "open", ("fuzzcanary", "w")),
    ("io", "open", ("fuzzcanary", "w")),
    ("_io", "FileIO", ("fuzzcanary", "w")),
    ("os", "open", ("fuzzcanary", 65)),
    ("pathlib", "Path.touch", (None,)),
    ("timeit", "timeit", ("fuzzcanary = 1", "import os; os.system('touch fuzzcanary')")),
    ("cProfile", "run", ("fuzzcanary = 1",)),
    ("pdb", "run", ("fuzzcanary = 1",)),
    ("code", "InteractiveInterpreter.runsource", (None, "fuzzcanary = 1")),
    (
        "logging.config",
        "dictConfig",
        ({"version": 1, "handlers": {"a": {"()": "os.system", "command": "fuzzcanary"}}},),
    ),
    ("numpy", "load", ("second.npy", None, True)),
    ("numpy.testing._private.utils", "runstring", ("fuzzcanary = 1", {})),
    ("pickle", "loads", (b"cos\nsystem\n(Vtouch fuzzcanary\ntR.",)),
    ("_pickle", "loads", (b"cos\nsystem\n(Vtouch fuzzcanary\ntR.",)),
    ("torch", "load", ("second.pt",)),
    ("torch.serialization", "load", ("second.pt",)),
    ("torch.serialization", "os.system", ("touch fuzzcanary",)),
    ("torch.jit", "load", ("second.pt",)),
    ("torch.storage", "_load_from_bytes", (b"cos\nsystem\n(Vtouch fuzzcanary\ntR.",)),
    ("torch.hub", "download_url_to_file", (HTTP, "fetched.pt")),
    ("torch.hub", "load_state_dict_from_url", (HTTP,)),
    ("torch.utils.cpp_extension", "load_inline", ("fuzzcanary", "int a;")),
    ("torch._inductor.codecache", "compile_file", ("fuzzcanary.cpp", "fuzzcanary.so", ["touch", "fuzzcanary"])),
    ("torch.nn.modules.module", "torch.os.system", ("touch fuzzcanary",)),
    ("ultralytics.nn.tasks", "torch_safe_load", ("second.pt",)),
    ("ultralytics.nn.tasks", "load_checkpoint", ("second.pt",)),
    ("ultralytics.nn.tasks", "attempt_load_one_weight", ("second.pt",)),
    ("ultralytics.nn.tasks", "os.system", ("touch fuzzcanary",)),
    ("ultralytics.nn.tasks", "DetectionModel", ("evil.yaml",)),
    ("ultralytics.nn.autobackend", "AutoBackend", ("second.pt",)),
    ("ultralytics.nn.distill_model", "DistillationModel", ("second.pt", "second.pt")),
    ("ultralytics.nn.modules.block", "TorchVision", ("resnet18", "DEFAULT")),
    ("ultralytics.utils.downloads", "safe_download", (HTTP,)),
    ("ultralytics.utils.downloads", "attempt_download_asset", ("yolov8n.pt",)),
    ("ultralytics.utils.checks", "check_requirements", ("fuzzcanary",)),
    ("ultralytics.utils.patches", "torch_load", ("second.pt",)),
    ("ultralytics.engine.model", "Model", ("second.pt",)),
    ("ultralytics", "YOLO", ("second.pt",)),
    ("urllib.request", "urlopen", (HTTP,)),
    ("urllib.request", "urlretrieve", (HTTP, "fetched.pt")),
    ("requests", "get", (HTTP,)),
    ("requests.api", "get", (HTTP,)),
    ("socket", "create_connection", (("127.0.0.1", 9), 1)),
    ("webbrowser", "open", (HTTP,)),
    ("ctypes", "CDLL", ("fuzzcanary.so",)),
    ("shutil", "rmtree", ("../../fuzzcanary",)),
    ("os", "remove", ("../../fuzzcanary",)),
    ("os", "rename", ("../../fuzzcanary", "../../fuzzcanary2")),
    ("zipfile", "ZipFile", ("fuzzcanary", "w")),
    ("sqlite3", "connect", ("fuzzcanary",)),
    ("torch.nn.modules.linear", "Linear", (30000, 30000)),
    ("torch.nn.modules.conv", "Conv2d", (20000, 20000, 3)),
    ("torch.nn.modules.sparse", "Embedding", (10**6, 1000)),
    ("ultralytics.nn.modules.conv", "Conv", (20000, 20000, 3)),
    ("torch", "zeros", (10**9,)),
    ("builtins", "bytearray", (4 * 10**9,)),
    ("builtins", "range", (10**12,)),
    ("builtins", "list", (range(2),)),
    ("itertools", "repeat", (0,)),
    ("time", "sleep", (100,)),
]
"""Calls that no checkpoint makes."""


def plain(value: object) -> bytes:
    """Opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def text(value: str) -> bytes:
    """Opcodes that push a string."""
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw if len(raw) < 256 else b"X" + len(raw).to_bytes(4, "little") + raw


def named(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def by_reduce(call: Call) -> bytes:
    """GLOBAL args REDUCE."""
    return named(call[0], call[1]) + plain(call[2]) + b"R"


def by_stack_global(call: Call) -> bytes:
    """Strings, STACK_GLOBAL, REDUCE."""
    return text(call[0]) + text(call[1]) + b"\x93" + plain(call[2]) + b"R"


def by_kept_strings(call: Call) -> bytes:
    """The two strings come out of the memo."""
    put, get = b"r\x90\x90\x90\x00", b"j\x90\x90\x90\x00"
    return text(call[0]) + put + b"0" + get + text(call[1]) + b"\x93" + plain(call[2]) + b"R"


def by_unicode_names(call: Call) -> bytes:
    """Module and name as old texts."""
    return f"V{call[0]}\nV{call[1]}\n".encode() + b"\x93" + plain(call[2]) + b"R"


def by_inst(call: Call) -> bytes:
    """INST."""
    return b"(" + b"".join(map(plain, call[2])) + f"i{call[0]}\n{call[1]}\n".encode()


def by_obj(call: Call) -> bytes:
    """OBJ."""
    return b"(" + named(call[0], call[1]) + b"".join(map(plain, call[2])) + b"o"


def by_newobj(call: Call) -> bytes:
    """NEWOBJ: `cls.__new__`, and for a function nothing good."""
    return named(call[0], call[1]) + plain(call[2]) + b"\x81"


def by_newobj_ex(call: Call) -> bytes:
    """NEWOBJ_EX."""
    return named(call[0], call[1]) + plain(call[2]) + b"}\x92"


def by_memo(call: Call) -> bytes:
    """The function goes through the memo."""
    return named(call[0], call[1]) + b"q\xfa0h\xfa" + plain(call[2]) + b"R"


def by_long_memo(call: Call) -> bytes:
    """Through an old, textual memo, and popped as a mark."""
    return b"(" + named(call[0], call[1]) + b"p99999\n1g99999\n" + plain(call[2]) + b"R"


def by_state(call: Call) -> bytes:
    """BUILD gives an allowed module a `__setstate__`, and calls it."""
    start = named("torch.nn.modules.linear", "Identity") + b")\x81}" + text("__setstate__") + named(call[0], call[1])
    return start + b"sb" + plain(call[2][0] if call[2] else None) + b"b"


def by_reducer(call: Call) -> bytes:
    """`copyreg._reconstructor` or `functools.partial` make the call."""
    return named("functools", "partial") + b"(" + named(call[0], call[1]) + b"".join(map(plain, call[2])) + b"tR)R"


def by_map(call: Call) -> bytes:
    """list(map(function, [argument]))."""
    mapped = named("builtins", "map") + b"(" + named(call[0], call[1]) + plain([call[2][0] if call[2] else 0]) + b"tR"
    return named("builtins", "list") + b"(" + mapped + b"tR"


def by_getattr(call: Call) -> bytes:
    """getattr(module, name), with the module from `importlib` and from an allowed function's globals."""
    module = named("importlib", "import_module") + b"(" + text(call[0]) + b"tR"
    return named("builtins", "getattr") + b"(" + module + text(call[1]) + b"tR" + plain(call[2]) + b"R"


def by_globals(call: Call) -> bytes:
    """A dotted name that walks from an allowed function to the builtins."""
    start = text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93"
    return start + b"0" + by_reduce(call)


def by_nested(call: Call) -> bytes:
    """A pickle within the pickle, read by its own reader."""
    return named("_pickle", "loads") + plain((b"\x80\x02" + by_reduce(call) + b".",)) + b"R"


def by_class(call: Call) -> bytes:
    """BUILD on an allowed class, not on an object: it would change the class for all."""
    state = b"}" + text("forward") + named(call[0], call[1]) + b"s"
    return named("torch.nn.modules.linear", "Identity") + state + b"b" + by_reduce(call)


def by_items(call: Call) -> bytes:
    """SETITEMS on what is no dict: a module's `__dict__`, through an allowed class."""
    return named("torch.nn.modules.module", "Module.__dict__") + text("forward") + named(call[0], call[1]) + b"s"


def by_tensor_hooks(call: Call) -> bytes:
    """The hooks of a rebuilt parameter."""
    hooks = named("collections", "OrderedDict") + b")R(" + plain(0) + named(call[0], call[1]) + b"u"
    rebuilt = named("torch._utils", "_rebuild_parameter") + b"(" + by_reduce(call) + b"\x88" + hooks + b"tR"
    return rebuilt


def by_extension(call: Call) -> bytes:
    """An extension code, which nobody has registered."""
    return b"\x82\x07" + plain(call[2]) + b"R"


def by_persistent_id(call: Call) -> bytes:
    """A persistent id that is a call."""
    return b"(" + text("storage") + by_reduce(call) + text("0") + text("cpu") + plain(4) + b"tQ"


def by_frames(call: Call) -> bytes:
    """Framed, as protocol 4 has it."""
    body = by_stack_global(call)
    return b"\x95" + len(body).to_bytes(8, "little") + body


def by_kept_reader(call: Call) -> bytes:
    """`torch.load` of bytes, as storages were once pickled."""
    return named("torch.storage", "_load_from_bytes") + plain((b"\x80\x02" + by_reduce(call) + b".",)) + b"R"


WAYS: list[Callable[[Call], bytes]] = [value for name, value in list(globals().items()) if name.startswith("by_")]
"""Each pushes what the call returns."""


def bombs(rng: random.Random) -> bytes:
    """Opcodes that call nothing and cost a lot, or stand where they may not."""
    many = rng.choice([100, 2000, 200_000])
    size = rng.choice([2**31 - 1, 2**62, 2**63, 2**64 - 1])
    huge = rng.choice([10**6, 10**9, 10**15])
    key = b"N" + b"".join(b"q%c0(h%ch%ct" % (i, i, i) for i in range(100, 100 + 60)).replace(b"0(", b"0(")
    return rng.choice(
        [
            b"(" * many,
            b"]" * many + b"a" * (many - 1),
            b")" + b"\x85" * many,
            b"\x8d" + size.to_bytes(8, "little") + b"x",
            b"\x8e" + size.to_bytes(8, "little") + b"x",
            b"\x96" + size.to_bytes(8, "little") + b"x",
            b"\x95" + size.to_bytes(8, "little") + b"N",
            b"\x8b" + (2**31 - 1).to_bytes(4, "little") + b"\x01",
            b"L" + b"9" * rng.choice([4300, 10**6]) + b"L\n",
            b"I" + b"9" * 5000 + b"\n",
            b"r" + (2**32 - 1).to_bytes(4, "little"),
            b"Nr\xff\xff\xff\x7f",
            b"N" + b"2" * many + b"\x94" * 10,
            b"\x97", b"\x98", b"\x83\xff\xff", b"\x84\xff\xff\xff\x7f", b"P0\n", b"NQ", b"(Q", b"R", b"b", b"u",
            b"0" * 9,
            b"g5\n", b"h\xfe", b"j\xff\xff\xff\x7f", b"Nb", b"]Nb", b"}(Nu", b"\x8f(]\x90", b"\xff", b"", b"F1e999\n",
            b"}" + key + b"Ns",
            b"\x8f(" + key + b"\x90",
            b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + plain(huge) + b"tQ",
            b"(" + text("storage") + named("torch",
            "FloatStorage") + text("../../x") + text("cuda:7") + plain(9) + b"tQ",
            b"(" + text("storage") + plain(3) + plain([]) + plain(None) + plain(-1) + b"tQ",
            by_reduce(("torch", "Size", ((huge, huge, -1),))),
            by_reduce(("collections", "OrderedDict", ([[[], 1]],))),
            by_reduce(("torch", "device", ("nowhere:99999999999",))),
            by_reduce(("torch._utils", "_rebuild_tensor_v2", (1, 2, 3, 4, 5, 6))),
            by_reduce(("torch._utils", "_rebuild_parameter", (1, 2, 3))),
            by_reduce(("builtins", "set", (((),) * 3,))),
        ]
    )  # fmt: skip
