"""A small dose of scripts/fuzz.py: no code run, no traceback, no hang, and nothing benign refused."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny import ROOT, script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory and time of a process are read from /proc")

DOSE = {
    "pickles": 8,
    "checkpoints": 8,
    "exports": 8,
    "cards": 8,
    "settings": 8,
    "yamls": 8,
    "data": 3,
    "training": 3,
}
FAULTS = ("traceback", "hang", "memory", "code run", "network", "silent", "other", "benign refused")

DEEDS = """
import json, os, pathlib, socket, subprocess, sys, tempfile, time
sys.path.insert(0, "scripts")
from fuzzing import case as watched
from yolo_slim.errors import SlimError

def refuse(text="no"): raise SlimError(text)
def left():
    pathlib.Path("runs/slim/pruned").mkdir(parents=True)
    pathlib.Path("runs/slim/pruned/half.pt").write_text("x")
    refuse()

deeds = {
    "nothing": lambda: None,
    "refuse": refuse,
    "raise": lambda: 1 / 0,
    "exit 1": lambda: sys.exit(1),
    "crash": lambda: os.abort(),
    "os.system": lambda: os.system("true"),
    "caught": lambda: quiet(os.system, "true"),
    "subprocess": lambda: subprocess.run(["true"]),
    "exec": lambda: exec("fuzzcanary = 1"),
    "look up": lambda: socket.getaddrinfo("localhost", 9),
    "connect": lambda: socket.socket().connect(("127.0.0.1", 9)),
    "write elsewhere": lambda: open(tempfile.gettempdir() + "/../../elsewhere", "w"),
    "write here": lambda: open("here", "w").close(),
    "spin": lambda: [None for _ in iter(int, 1)] and None,
    "sleep": lambda: time.sleep(100),
    "memory": lambda: [bytearray(b"x") * (3 * 10**9), None][1],
    "two messages": lambda: [print("yolo-slim: one", file=sys.stderr), refuse()],
    "a warning": lambda: [print("x.py:7: UserWarning: old", file=sys.stderr), refuse()],
    "control sequence": lambda: print(watched.PLANTED),
    "left": left,
}
def quiet(f, *a):
    try: f(*a)
    except Exception: pass
watched.PATIENCE = 2
def main(words):
    try: deeds[words[0]]()
    except SlimError as e:
        print(f"yolo-slim: {e}", file=sys.stderr)
        return 2
    return 0
found = {}
for word in ("prune.ratio=0.3", "prune.ratio=much"):  # and there is nothing to export
    with tempfile.TemporaryDirectory() as folder:
        case, home = watched.Case(["export", "model=yolov5n.yaml", word], "", dry=True), pathlib.Path(folder)
        found[f"dry, {word}"], _ = watched.verdict(case, watched.attempt(case, home), home)
watched.cli.main = main
for name in deeds:
    with tempfile.TemporaryDirectory() as folder:
        for benign in (False, True):
            case = watched.Case([name], name, benign=benign, never=not benign, seconds=20 if name == "memory" else 1)
            home = pathlib.Path(folder) / str(benign)
            outcome, _ = watched.verdict(case, watched.attempt(case, home), home)
            found[f"{name}, {'benign' if benign else 'never'}"] = outcome
print(json.dumps(found))
"""


def python(*words: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own: this one has threads, and what forks may have none."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


def fuzz(rows: Path, kinds: Sequence[str], count: int) -> str:
    """What scripts/fuzz.py tells of its findings."""
    done = python("scripts/fuzz.py", "--kinds", *kinds, "--count", count, "--rows", rows)
    assert done.returncode in (0, 1), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def dose(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, list[int]], str]]:
    """Kind -> outcomes with the numbers of cases, and what was told. Kinds of one count share a process."""
    folder = tmp_path_factory.mktemp("rows")
    told: dict[int, str] = {}

    def of(kind: str) -> tuple[dict[str, list[int]], str]:
        count = DOSE[kind]
        rows = folder / f"{count}.json"
        if count not in told:
            told[count] = fuzz(rows, [k for k, n in DOSE.items() if n == count], count)
        return json.loads(rows.read_text())["outcomes"][kind], told[count]

    return of


@pytest.mark.parametrize("kind", DOSE)
def test_no_input_does_harm(kind: str, dose: Callable[[str], tuple[dict[str, list[int]], str]]) -> None:
    outcomes, told = dose(kind)
    faults = {outcome: numbers for outcome, numbers in outcomes.items() if outcome in FAULTS}
    assert not faults, "\n".join(line for line in told.splitlines() if line.startswith(f"{kind} "))
    assert sum(map(len, outcomes.values())) == DOSE[kind]


def test_what_is_watched_for_is_seen() -> None:
    done = python("-c", DEEDS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    seen = {
        "raise": "traceback",
        "exit 1": "traceback",
        "crash": "traceback",
        "os.system": "code run",
        "caught": "code run",
        "subprocess": "code run",
        "exec": "code run",
        "look up": "network",
        "connect": "network",
        "write elsewhere": "other",
        "spin": "hang",
        "sleep": "hang",
        "memory": "memory",
        "two messages": "other",
        "a warning": "other",
        "control sequence": "other",
        "left": "other",
    }
    expected = {f"{name}, {how}": outcome for name, outcome in seen.items() for how in ("never", "benign")}
    for name in ("nothing", "write here"):
        expected |= {f"{name}, never": "silent", f"{name}, benign": "accepted"}
    expected |= {"refuse, never": "refused well", "refuse, benign": "benign refused"}
    expected |= {"dry, prune.ratio=0.3": "accepted", "dry, prune.ratio=much": "refused well"}
    assert found == expected


def test_what_was_tried_is_kept_and_not_tried_again(tmp_path: Path) -> None:
    fuzz(tmp_path / "rows.json", ["settings"], 2)
    first = (tmp_path / "rows.json").read_text()
    rows = json.loads(first)
    assert sorted(n for numbers in rows["outcomes"]["settings"].values() for n in numbers) == [0, 1]
    module = script("fuzz")
    assert module.Rows(tmp_path / "rows.json", 0).tried("settings") == {0, 1}
    assert module.Rows(tmp_path / "rows.json", 1).tried("settings") == set()  # another seed, other cases
    (tmp_path / "rows.json").write_text(first.replace(rows["sources"], "0" * 16))
    assert module.Rows(tmp_path / "rows.json", 0).tried("settings") == set()  # other code


def test_the_table_counts_every_outcome(tmp_path: Path) -> None:
    module = script("fuzz")
    rows = module.Rows(tmp_path / "rows.json", 0)
    for number, outcome in enumerate(["refused well", "accepted", "refused well", "code run"]):
        rows.add(module.Row("data", number, outcome, ""))
    rows.write()
    head, _, line = module.table(tmp_path / "rows.json").splitlines()
    counts = dict(zip(map(str.strip, head.split("|")), map(str.strip, line.split("|")), strict=True))
    assert counts["kind"] == "data sets" and counts["tried"] == "4"
    assert (counts["refused well"], counts["accepted"], counts["code run"], counts["silent"]) == ("2", "1", "1", "0")
    assert module.main(["--print", "--rows", str(tmp_path / "rows.json")]) == 1


def test_a_case_is_made_from_its_number_alone(tmp_path: Path) -> None:
    import random

    kinds = script("fuzz").KINDS
    for kind in ("pickles", "settings", "exports", "yamls"):
        made = []
        for again in ("a", "b"):
            (tmp_path / kind / again).mkdir(parents=True)
            case = kinds[kind].case(random.Random("0/x/7"), tmp_path / kind / again)
            files = {p.name: p.read_bytes() for p in (tmp_path / kind / again).rglob("*") if p.is_file()}
            made.append((case, files))
        assert made[0] == made[1], kind
