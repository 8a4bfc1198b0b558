"""One try: the command line on one case, in a forked process that is watched, and what came of it.

The process that forks has all imported already, so that a try costs what the command itself does. An audit hook tells
what a case makes Python do; the deed itself is stopped. Linux only: memory and time are read from /proc.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("YOLO_OFFLINE", "true")  # as the command line does, before Ultralytics is imported

from yolo_slim import cli
from yolo_slim.stages import Stage

MEMORY = 2 * 10**9  # bytes that a case may take beside what is imported
PATIENCE = 12  # times its seconds of processor that a case may take on the clock: other work slows it down
CANARY = "fuzzcanary"
"""What payloads write, import, evaluate: its name in an audited event means that they ran."""
PLANTED = "\x1b[7;35m"
"""A control sequence that stands in texts of files: it must not reach a console."""

RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen", "pty.spawn",
        "webbrowser.open", "os.forkpty")  # fmt: skip
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
           "urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect")  # fmt: skip
WRITES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.chmod", "os.truncate",
          "shutil.rmtree", "shutil.move", "shutil.copyfile", "shutil.unpack_archive")  # fmt: skip
HARMLESS = (("subprocess.Popen", "uname"), ("subprocess.Popen", "lscpu"))
"""What benign runs do: event, and how its first argument begins. `platform.processor` asks uname."""


class Case(NamedTuple):
    """What to try. Its files lie in the folder that it was made in, which is where the command runs."""

    words: list[str]
    """Of the command line; `load FILE`: by `yolo_slim.load`, from Python."""
    told: str
    """What is wrong with it, for whoever mends it."""
    benign: bool = False
    """To refuse it is the fault."""
    never: bool = False
    """To accept it is the fault."""
    dry: bool = False
    """Only the settings are read; the stage itself is left out."""
    seconds: float = 5.0
    """Of processor; more is a hang."""
    env: dict[str, str] = {}  # noqa: RUF012


class Ended(NamedTuple):
    """How a try ended."""

    code: int
    """Of the process; below 0: the signal that killed it."""
    out: str
    err: str
    events: list[str]
    hung: bool
    peak: int
    """Bytes beside what is imported."""


def attempt(case: Case, folder: Path) -> Ended:
    """Run a case whose files are in `folder`/work; what it says and does is written beside."""
    for name in ("work", "home", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    before = _resident(os.getpid())
    if (pid := os.fork()) == 0:
        try:
            _child(case, folder)
        finally:
            os._exit(70)
    try:
        code, hung, peak = _watched(pid, case.seconds, before)
    except BaseException:  # interrupted: nobody watches it any more
        _kill(pid)
        raise
    said = [(folder / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err", "events")]
    return Ended(code, said[0], said[1], said[2].splitlines(), hung, peak)


def _child(case: Case, folder: Path) -> None:
    os.setsid()
    streams = [os.open(os.devnull, os.O_RDONLY)]
    streams += [os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for name in ("out", "err")]
    events = os.open(folder / "events", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", errors="replace"), os.fdopen(2, "w", errors="backslashreplace")
    os.environ.pop("ULTRALYTICS_SAFE_LOAD", None)
    os.environ.update(HOME=str(folder / "home"), TMPDIR=str(folder / "tmp"), PYTHONDONTWRITEBYTECODE="1", **case.env)
    sys.dont_write_bytecode = True
    tempfile.tempdir = None
    os.chdir(folder / "work")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.addaudithook(Watch(events, folder))
    code = _command(case)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _command(case: Case) -> int:
    """The exit code that a user would see."""
    try:
        if case.words[0] == "load":
            return _loaded(case.words[1])
        if case.dry:
            Stage.__call__ = lambda stage, config: None
        return cli.main(case.words)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1


def _loaded(path: str) -> int:
    import yolo_slim

    try:
        yolo_slim.load(path)
    except yolo_slim.SlimError as e:
        print(f"yolo-slim: {e}", file=sys.stderr)
        return 2
    return 0


class Watch:
    """An audit hook: notes what a case must not do, and stops it. Of other events it knows nothing."""

    def __init__(self, events: int, folder: Path) -> None:
        self.events, self.home = events, str(folder)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if kind := self._kind(event, args):
            os.write(self.events, f"{kind} {event} {args!r:.300}\n".encode(errors="replace"))
            raise PermissionError(f"stopped: {event}")

    def _kind(self, event: str, args: tuple[Any, ...]) -> str:
        """code, network, elsewhere, or nothing."""
        if event in RUNS or event in NETWORK:
            if any(event == known and str(args[0]).startswith(how) for known, how in HARMLESS):
                return ""
            return "code" if event in RUNS else "network"
        if event in ("exec", "import", "ctypes.dlopen") and CANARY in _named(args[0]):
            return "code"
        if event == "open":
            return self._opened(*args)
        if event in WRITES and isinstance(args[0], (str, bytes, Path)):
            return self._written(os.fsdecode(args[0]))
        return ""

    def _opened(self, path: object, mode: str | None, flags: int) -> str:
        writing = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(flags, int) else False
        if not isinstance(path, (str, bytes, Path)) or not (writing or set(mode or "") & set("wax+")):
            return ""
        return self._written(os.fsdecode(path))

    def _written(self, path: str) -> str:
        if CANARY in Path(path).name:
            return "code"
        whole = os.path.abspath(path)
        return "" if whole.startswith((self.home, "/dev/", "/proc/")) else "elsewhere"


def _named(code: object) -> str:
    return f"{code.co_names}{code.co_consts}" if hasattr(code, "co_names") else str(code)


def _watched(pid: int, seconds: float, before: int) -> tuple[int, bool, int]:
    """Wait for a process: its exit code, whether it had to be stopped for its time, its peak memory."""
    start, peak, hung = time.monotonic(), 0, False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        peak = max(peak, _resident(pid) - before)
        hung = _processor(pid) > seconds or time.monotonic() - start > PATIENCE * seconds
        if hung or peak > MEMORY:
            _kill(pid)
            _, status, usage = os.wait4(pid, 0)
            break
        time.sleep(0.01)
    _kill(pid)  # what it has started, if anything
    used = usage.ru_utime + usage.ru_stime
    return os.waitstatus_to_exitcode(status), hung or used > seconds, max(peak, usage.ru_maxrss * 1024 - before)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # its group is its own: setsid


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _processor(pid: int) -> float:
    """Seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def verdict(case: Case, ended: Ended, folder: Path) -> tuple[str, str]:
    """Outcome (a column of the table), and why."""
    deeds = {event.partition(" ")[0]: event for event in reversed(ended.events)}
    for kind, column in (("code", "code run"), ("network", "network"), ("elsewhere", "other")):
        if kind in deeds:
            return column, deeds[kind]
    if ended.peak > MEMORY:
        return "memory", f"{ended.peak / 1e9:.1f} GB"
    if ended.hung:
        return "hang", f"over {case.seconds:g} s of processor"
    if "Traceback (most recent call last)" in ended.err or ended.code not in (0, 2):
        return "traceback", _last_words(ended)
    if PLANTED in ended.out + ended.err:
        return "other", "a control sequence of a file is printed"
    if ended.code == 0:
        return ("silent", "accepted") if case.never else ("accepted", "")
    if f"\n{ended.err}".count("\nyolo-slim: ") != 1 or "Warning: " in ended.err:
        return "other", f"not one message: {ended.err[:200]!r}"
    if left := half_written(folder / "work" / "runs"):
        return "other", f"half-written: {left}"
    return ("benign refused", ended.err.strip()) if case.benign else ("refused well", ended.err.strip())


def _last_words(ended: Ended) -> str:
    """The exception and the place in this package that it went through last; or the signal."""
    lines = ended.err.strip().splitlines()
    places = [line.strip() for line in lines if line.strip().startswith('File "') and "yolo_slim" in line]
    last = next((line for line in reversed(lines) if line and not line.startswith(" ")), "")
    return f"exit {ended.code}: {last[:160]} [{places[-1].split('yolo_slim/')[-1] if places else ''}]"


def half_written(runs: Path) -> list[str]:
    """Files of stages that are not done: runs/NAME/STAGE/... without the record that is written last."""
    stages = [stage for stage in runs.glob("*/*") if stage.is_dir() and not (stage / "stage.json").is_file()]
    return [str(path.relative_to(runs)) for stage in stages for path in stage.rglob("*") if path.is_file()]
