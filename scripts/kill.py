"""Kill every stage at random moments, hundreds of times, and look for a state that is wrong.

    python scripts/kill.py --kills 200 --seed 0

Each trial puts a run of a tiny detector (64 px, a dozen images) as it was before a command, or as another setting left
it, starts the command and kills it with SIGKILL: the process alone, all that it has started as well, or one of its
workers. After each kill
- every file under its final name must be whole, and every record either true or taken for none,
- now and then a command that reads what the killed one writes must do so, or refuse with exit code 2.
Then the same command must come to the same results as one that was never killed, and leave nothing else behind: no
temporary file, no lock, no process. Trials are kept in --out; with the same --out the script goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["YOLO_OFFLINE"] = "true"  # before Ultralytics is imported: it looks for a connection then
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))  # we fork

from killing import PATIENCE, PX, Place, ended, experiment, fork, halves, left, preload, results, session

COMMON = [
    *("data=shapes/data.yaml", f"imgsz={PX}", "prune.ratio=0.3", "prune.round_to=4", "prune.min_channels=4"),
    *("prune.criterion=l1", "report.latency_runs=1", "export.formats=[onnx,torchscript]", "export.images=1"),
    *("bench.runtimes=[torch,onnxruntime]", "bench.runs=3", "sweep.criteria=[l1,random]", "sweep.flops=[0.8,0.6]"),
    *("prune.sensitivity.ratios=[0.3,0.6]", "prune.sensitivity.images=4", "sparse_train.epochs=0"),
    *(f"{stage}.train={{workers: 0, batch: 4, nbs: 4, optimizer: SGD}}" for stage in ("original", "sparse_train")),
    *("finetune.train={workers: 0, batch: 4, nbs: 4, optimizer: SGD}", "finetune.epochs=3", "original.epochs=3"),
]
"""Settings of every command."""


@dataclass(frozen=True)
class Case:
    """A command that is killed."""

    command: str
    words: tuple[str, ...] = ()  # beside COMMON
    otherwise: tuple[str, ...] = ()  # settings with which it may have been done before
    before: tuple[str, ...] = ()  # commands that come before it
    reader: str = "report"  # a command that reads what it writes
    trains: bool = False  # a training that was killed goes on from an epoch: not to the same numbers


SPARSE = ("sparse_train.epochs=3", "sparse_train.min_steps=0")
CASES = {
    "original": Case("prune", ("model=tiny.yaml",), ("seed=1",), reader="finetune", trains=True),
    "sparse-train": Case("sparse-train", (*SPARSE, "sparse_train.mode=uniform"), ("seed=1",), (), "prune", True),
    "landing": Case("sparse-train", SPARSE, ("prune.ratio=0.4",), (), "prune", True),
    "plan": Case("plan", (), ("prune.ratio=0.5",), (), "prune"),
    "sensitivity": Case("sensitivity", (), ("prune.sensitivity.images=3",), (), "prune"),
    "prune": Case("prune", (), ("prune.ratio=0.5",), (), "finetune"),
    "rounds": Case(
        "prune", ("prune.iterations={rounds: 2, epochs: 2}",), ("prune.iterations.rounds=1",), (), "finetune", True
    ),
    "recover": Case("recover", ("recover.match.steps=20",), ("seed=1",), ("prune",), "report"),
    "finetune": Case("finetune", (), ("seed=1",), ("prune",), "export", True),
    "compress": Case(
        "compress",
        ("compress=[prune, {weights: {sparsity: 0.4, epochs: 3, train: {workers: 0, batch: 4, nbs: 4}}}, cluster]",),
        ("seed=1",),
        ("prune",),
        "export",
        True,
    ),
    "export": Case("export", (), ("export.formats=[onnx]", "export.int8=[onnx]"), ("prune",)),
    "bench": Case("bench", (), ("bench.runs=4",), ("prune",)),
    "report": Case("report", (), ("report.latency_runs=2",), ("prune", "finetune"), "export"),
    "sweep": Case("sweep", (), ("sweep.flops=[0.7]",)),
    "run": Case(
        "run",
        ("sparse_train.epochs=1", "sparse_train.mode=uniform", "finetune.epochs=1", "export.formats=[torchscript]"),
        ("seed=1",),
        (),
        "export",
        True,
    ),
}
CUT = [CASES[name] for name in ("original", "rounds", "run")]
"""Cases in which what was trained is cut."""
HOW = {"alone": 3, "group": 2, "worker": 2}
"""What is killed, and how often."""

# ---------------------------------------------------------------------------------------------------------------------
# One trial after the other


class Trials:
    """Places as they are before and after each command, made when they are first asked for; and what kills came to."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed

    def made(self, name: str, *, otherwise: bool = False, done: bool = False) -> tuple[Place, float]:
        """The place before a case's command, or after it (`done`); and the seconds that the command took.

        With `otherwise` the command had been done with other settings before.
        """
        case = CASES[name]
        place = Place(self.folder / f"{name}{'-otherwise' * otherwise}{'-done' * done}")
        told = place.folder / "seconds"
        if not told.exists():
            shutil.rmtree(place.folder, ignore_errors=True)
            start = self.made(name, otherwise=otherwise)[0] if done else self._blank()
            start.copy(place.folder)
            steps = [typed(case)] if done else [typed(case, step) for step in case.before]
            steps += [typed(case, None, *case.otherwise)] if otherwise and not done else []
            began = time.monotonic()
            for words in steps:
                if place.through(words) != 0:
                    raise SystemExit(f"{' '.join(words)} failed without a kill: {place.said}")
            told.write_text(str(time.monotonic() - began))
        return place, float(told.read_text())

    def _blank(self) -> Place:
        if not (self.folder / "blank" / "log.txt").exists():
            experiment(self.folder / "blank")
        return Place(self.folder / "blank")

    def trial(self, number: int, chosen: list[str]) -> list[dict[str, Any]]:
        """Up to five kills of one command, and the command to its end: a row each."""
        rng = random.Random(f"{self.seed}-{number}")
        name = chosen[number % len(chosen)]
        case, otherwise = CASES[name], rng.random() < 0.4
        start, _ = self.made(name, otherwise=otherwise)
        whole, seconds = self.made(name, otherwise=otherwise, done=True)
        place, rows = Place(self.folder / f"trial-{number}"), []
        shutil.rmtree(place.folder, ignore_errors=True)
        start.copy(place.folder)
        for _ in range(rng.randint(2, 5)):
            how = rng.choices(list(HOW), list(HOW.values()))[0]
            wait, reads = seconds * rng.random() ** 1.2 * 1.05, rng.random() < 0.2
            row = {"trial": number, "case": name, "how": how, "otherwise": otherwise, "after_s": round(wait, 3)}
            if not (killed := self._kill(place, case, how, wait)):
                break
            row["written"] = _record(place, case) not in (None, _record(start, case))
            rows.append({**row, **killed, "wrong": [*killed["wrong"], *self._wrong(place, case, reads=reads)]})
        if rows:
            rows[-1]["wrong"] += self._unlike(place, whole, case)
            if not rows[-1]["wrong"]:
                shutil.rmtree(place.folder)
        return rows

    def _kill(self, place: Place, case: Case, how: str, wait: float) -> dict[str, Any] | None:
        """Start the command and kill it; None: it was faster."""
        pid = place.start(typed(case))
        if (code := ended(pid, wait)) is not None:
            return None if code == 0 else {"wrong": [f"ended with {code}: {place.said}"]}
        others, wrong = session(pid), []
        if how == "worker" and others:
            os.kill(random.Random(wait).choice(others), signal.SIGKILL)
            if (code := ended(pid, PATIENCE)) not in (0, 2):
                wrong.append(f"ended with {code} when a process of its was killed: {place.said}")
        if how == "worker" and others and code is not None:
            return {"wrong": wrong}
        (os.killpg if how == "group" else os.kill)(pid, signal.SIGKILL)
        until = time.monotonic() + 20
        while (orphans := session(pid)) and time.monotonic() < until:
            time.sleep(0.05)
        for orphan in orphans:
            os.kill(orphan, signal.SIGKILL)
        os.waitpid(pid, 0)  # only now: until then no other process can have its number
        wrong += [f"{len(orphans)} processes outlived the one that was killed"] if orphans else []
        return {"wrong": wrong}

    def _wrong(self, place: Place, case: Case, *, reads: bool) -> list[str]:
        """What is wrong after a kill."""
        found = asked(lambda: list(halves(place.runs)), place)
        if reads and not found:
            copy = place.copy(place.folder.with_name(f"{place.folder.name}-read"))
            code = copy.through(typed(case, case.reader))
            if code not in (0, 2) or "Traceback" in copy.said:
                found.append(f"{case.reader} ended with {code}: {copy.said}")
            found += asked(lambda: list(halves(copy.runs)), copy) + left(copy)
            shutil.rmtree(copy.folder)
        return found

    def _unlike(self, place: Place, whole: Place, case: Case) -> list[str]:
        """What is other than without kills, once the same command is through."""
        if (code := place.through(typed(case))) != 0:
            return [f"the same command again ended with {code}: {place.said}"]
        here, there = (
            asked(partial(results, each, trains=case.trains, cuts=case in CUT), each) for each in (place, whole)
        )
        unlike = [f"{k}: {here.get(k)}, not {there.get(k)}" for k in here | there if here.get(k) != there.get(k)]
        return [*unlike, *asked(lambda: list(halves(place.runs)), place), *left(place)]


FOLDERS = {
    "sparse-train": "sparse",
    "prune": "pruned",
    "recover": "recovered",
    "finetune": "finetuned",
    "compress": "compressed",
    "run": "report",
}
FOLDERS |= {name: name for name in ("plan", "sensitivity", "export", "bench", "report", "sweep")}
"""Command -> the folder of its last stage."""


def _record(place: Place, case: Case) -> bytes | None:
    file = place.runs / "slim" / FOLDERS[case.command] / "stage.json"
    return file.read_bytes() if file.exists() else None


def typed(case: Case, command: str | None = None, *more: str) -> list[str]:
    """A command with a case's settings."""
    model = [] if any(word.startswith("model=") for word in case.words) else ["model=tiny.pt"]
    return [command or case.command, *model, *COMMON, *case.words, *more]


def asked(question: Callable[[], Any], place: Place) -> Any:
    """An answer from a process of its own: this one must not run torch, as it forks."""
    answer = place.folder / "answer.json"
    if ended(fork(lambda: answer.write_text(json.dumps(question())) and 0, place.log), PATIENCE) != 0:
        raise SystemExit(place.said)
    found = json.loads(answer.read_text())
    answer.unlink()
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The table


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each case."""
    lines = [
        "| killed | kills | before its record was written | after | done before otherwise | wrong states |",
        "|---|---|---|---|---|---|",
    ]
    for name in [name for name in CASES if any(row["case"] == name for row in rows)]:
        lines.append(_line(name, [row for row in rows if row["case"] == name]))
    return "\n".join([*lines, _line("**all**", rows)])


def _line(name: str, rows: list[dict[str, Any]]) -> str:
    cells = [len(rows), sum(not r["written"] for r in rows), sum(r["written"] for r in rows)]
    cells += [sum(r["otherwise"] for r in rows), sum(bool(r["wrong"]) for r in rows)]
    return f"| {name} | {' | '.join(map(str, cells))} |"


def main() -> int:
    """Kill until there are enough; 1: a state was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--out", type=Path, default=Path("runs/kill"), help="folder for trials and places")
    chosen = parser.parse_args()
    preload()
    chosen.out.mkdir(parents=True, exist_ok=True)
    kept = chosen.out / f"seed{chosen.seed}.json"
    trials = json.loads(kept.read_text()) if kept.exists() else []  # a list of rows each
    tried = Trials((chosen.out / "places").resolve(), chosen.seed)
    while sum(map(len, trials)) < chosen.kills:
        trials.append(tried.trial(len(trials), chosen.only))
        kept.with_suffix(".part").write_text(json.dumps(trials, indent=1))
        kept.with_suffix(".part").replace(kept)
        for row in trials[-1]:
            print(
                f"{row['case']:14}{row['how']:8}{row['after_s']:8.2f} s  {'; '.join(row['wrong']) or 'right'}",
                flush=True,
            )
    rows = [row for trial in trials for row in trial]
    print(table(rows))
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
