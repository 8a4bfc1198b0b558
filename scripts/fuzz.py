"""Tries thousands of broken and hostile inputs, and real ones between them, and prints what came of each kind.

    python scripts/fuzz.py                                             # all kinds, at the counts of docs/reliability.md
    python scripts/fuzz.py --kinds pickles settings --count 100        # fewer
    python scripts/fuzz.py --kinds checkpoints --only 17 --keep kept   # one case again, its files and command kept
    python scripts/fuzz.py --print                                     # the table of what was tried

Every case is made from the seed, its kind and its number alone, and run as a user would run it: `yolo-slim` in a
process of its own, watched. What was tried is kept in the file of rows as it goes: interrupted, the same command goes
on; with another seed or other sources of the package, it starts again. Linux only.

Columns: *refused well* is exit code 2, one message, nothing half-written. *Silent* was accepted though it is not what
its writer wrote: a call in a pickle, a checksum that is wrong, a weight that is no number. *Other* are more than one
message, files half-written or written elsewhere, and control sequences of a file on the console. *Benign refused* are
real files and right settings, one in twenty cases, that were turned away.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import io
import json
import multiprocessing
import random
import shlex
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fuzzing import cards, checkpoints, datasets, exports, pickles, settings, yamls
from fuzzing.case import Case, attempt, verdict

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "scripts" / "fuzz_rows.json"
COLUMNS = ("refused well", "accepted", "traceback", "hang", "memory", "code run", "network", "silent", "other",
           "benign refused")  # fmt: skip
FAULTS = COLUMNS[2:]
BENIGN = 0.05
"""Share of the cases that must be accepted."""

Maker = Callable[[random.Random, Path], Case]


class Kind(NamedTuple):
    """What is tried, and how often."""

    title: str
    count: int
    case: Maker
    benign: Maker


KINDS = {
    "pickles": Kind("hostile pickles", 1000, pickles.case, pickles.benign),
    "checkpoints": Kind("mutated checkpoints", 1000, checkpoints.case, pickles.benign),
    "exports": Kind("exported files", 300, exports.case, exports.benign),
    "cards": Kind("model cards", 300, cards.case, cards.benign),
    "settings": Kind("settings", 1000, settings.case, settings.benign),
    "training": Kind("training arguments", 100, settings.training, settings.benign_training),
    "data": Kind("data sets", 300, datasets.case, datasets.benign),
    "yamls": Kind("model YAMLs", 300, yamls.case, yamls.benign),
}


class Row(NamedTuple):
    """What came of a case."""

    kind: str
    number: int
    outcome: str
    why: str


def try_one(kind: str, number: int, seed: int, keep: Path | None) -> Row:
    """Make a case and run it; its files are kept if it failed and `keep` says where."""
    rng = random.Random(f"{seed}/{kind}/{number}")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        (folder / "work").mkdir()
        maker = KINDS[kind].benign if rng.random() < BENIGN else KINDS[kind].case
        case = maker(rng, folder / "work")
        outcome, why = verdict(case, attempt(case, folder), folder)
        if keep and outcome in FAULTS:
            _keep(case, folder, keep / f"{kind}-{number}", f"{outcome}: {why}")
        return Row(kind, number, outcome, f"{case.told}: {why}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _keep(case: Case, folder: Path, to: Path, why: str) -> None:
    shutil.rmtree(to, ignore_errors=True)
    with contextlib.suppress(shutil.Error):  # of what is no file, all else is copied
        shutil.copytree(folder, to, symlinks=True)
    variables = [f"{name}={shlex.quote(value)}" for name, value in case.env.items()]
    command = ["yolo-slim", *case.words]
    if case.words[0] == "load":
        command = ["python", "-c", f"import yolo_slim; yolo_slim.load({case.words[1]!r})"]
    (to / "command.txt").write_text(f"# {case.told}\n# {why}\ncd work\n{' '.join(variables)} {shlex.join(command)}\n")


class Rows:
    """What was tried, kept in a file."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.told = path, {"seed": seed, "sources": sources()}
        self.outcomes: dict[str, dict[str, list[int]]] = {}
        found = json.loads(path.read_text()) if path.is_file() else {}
        if {key: found.get(key) for key in self.told} == self.told:
            self.outcomes = found["outcomes"]

    def tried(self, kind: str) -> set[int]:
        """Numbers of its cases."""
        return {number for numbers in self.outcomes.get(kind, {}).values() for number in numbers}

    def add(self, row: Row) -> None:
        """One more."""
        numbers = self.outcomes.setdefault(row.kind, {}).setdefault(row.outcome, [])
        numbers.append(row.number)
        numbers.sort()

    def write(self) -> None:
        """Whole or not at all."""
        part = self.path.with_name(f".{self.path.name}.part")
        lines = [f"{json.dumps(kind)}: {json.dumps(found)}" for kind, found in self.outcomes.items()]
        head = json.dumps(self.told)[1:-1]
        part.write_text(f'{{{head}, "outcomes": {{\n' + ",\n".join(lines) + "\n}}\n")
        part.replace(self.path)


def sources() -> str:
    """A hash of the package: what was tried says nothing of other code."""
    sums = hashlib.sha256()
    for path in sorted((ROOT / "yolo_slim").rglob("*.py")):
        sums.update(path.read_bytes())
    return sums.hexdigest()[:16]


def table(path: Path = ROWS) -> str:
    """The Markdown table of a file of rows."""
    outcomes = json.loads(path.read_text())["outcomes"] if path.is_file() else {}
    lines = [f"| kind | tried | {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * (len(COLUMNS) + 1)}"]
    for kind, found in ((kind, outcomes.get(kind, {})) for kind in KINDS):
        counts = [len(found.get(column, [])) for column in COLUMNS]
        if any(counts):
            lines.append(f"| {KINDS[kind].title} | {sum(counts)} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def _try(asked: tuple[str, int, int, Path | None]) -> Row:
    return try_one(*asked)


def _interruptible() -> None:
    """Ctrl-C is for the first process, which then ends the others: they stop what they have started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())


def rows_of(asked: list[tuple[str, int, int, Path | None]], workers: int) -> Iterator[Row]:
    """Each as it is done; all is imported once, before the workers part."""
    prepare()
    if workers == 1:
        yield from map(_try, asked)
        return
    with multiprocessing.get_context("fork").Pool(workers, _interruptible) as pool:
        yield from pool.imap_unordered(_try, asked, chunksize=1)


def prepare() -> None:
    """Import what a case would spend seconds on, and use it once: what comes late is imported then."""
    import torch

    torch.set_num_threads(1)
    import onnx  # noqa: F401
    import torchvision  # noqa: F401

    import yolo_slim
    import yolo_slim.stages.finetune
    import yolo_slim.stages.inspect
    import yolo_slim.stages.run
    from yolo_slim import cli

    whole = pickles.CORPUS / "slim-once.pt"
    yolo_slim.prune(yolo_slim.load(whole), imgsz=64, ratio=0.3, min_channels=1, round_to=1)
    with contextlib.redirect_stdout(io.StringIO()):
        cli.main(["inspect", str(whole), "imgsz=64"])
    datasets.model()
    gc.freeze()  # else every child copies what its collector looks at


def run(args: argparse.Namespace) -> Rows:
    """Try what is asked for and was not tried yet."""
    rows = Rows(args.rows, args.seed)
    asked = []
    for kind in args.kinds:
        numbers = args.only or [n for n in range(args.count or KINDS[kind].count) if n not in rows.tried(kind)]
        asked += [(kind, number, args.seed, args.keep) for number in numbers]
    seen: Counter[str] = Counter()
    try:
        for row in rows_of(asked, args.workers):
            seen[row.outcome] += 1
            if row.outcome in FAULTS or args.only:
                print(f"{row.kind} {row.number}: {row.outcome}: {row.why[:400]}", file=sys.stderr)
            if not args.only:
                rows.add(row)
                if sum(seen.values()) % 20 == 0:
                    rows.write()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
    finally:
        if not args.only:
            rows.write()
    return rows


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--count", type=int, help="cases of each kind (default: each has its own)")
    parser.add_argument("--only", type=int, nargs="+", help="these cases, again; the rows stay as they are")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other cases (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="cases at a time (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="folder for the files and the command of every case that failed")
    parser.add_argument("--rows", type=Path, default=ROWS, help="what was tried (default: scripts/fuzz_rows.json)")
    parser.add_argument("--print", action="store_true", help="only print the table of what was tried")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit 0: no fault was found; 1: some were, told on stderr."""
    args = read_arguments(argv)
    if not args.print:
        run(args)
    print(table(args.rows))
    outcomes: dict[str, Any] = json.loads(args.rows.read_text())["outcomes"] if args.rows.is_file() else {}
    return int(any(found.get(column) for found in outcomes.values() for column in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
