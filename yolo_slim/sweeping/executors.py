"""Where the points of a sweep are made: processes of this machine, or tasks on Ray. Nothing outlives the sweep."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from multiprocessing import active_children, get_all_start_methods, get_context, parent_process
from pathlib import Path
from types import ModuleType

from yolo_slim.config import Sweep
from yolo_slim.errors import SlimError
from yolo_slim.sweeping.point import Point, work

Start = Callable[[Sequence[Point]], list[Future]]


def executor(chosen: Sweep, threads: int, log: Path, device: str) -> AbstractContextManager[Start]:
    """What starts points: within the context it takes them and gives their futures.

    Raises:
        SlimError: Ray is asked for and not installed.
    """
    if chosen.executor == "ray":
        return on_ray(ray_module(), chosen.workers, threads, chosen.ray_address, device)
    return in_processes(chosen.workers, log)


def make_all(points: Sequence[Point], where: AbstractContextManager[Start]) -> Iterator[tuple[str, str | None]]:
    """Make every point; yields, as each is done, its key and, where it could not be made, why.

    A mistake of ours in one point does not stop the others: it is raised when they are done.
    """
    crash = None
    with where as start:
        for future in as_completed(start(points)):
            if error := future.exception():
                crash = crash or error
            else:
                yield future.result()
        if crash:
            raise crash


@contextmanager
def in_processes(workers: int, log: Path) -> Iterator[Start]:
    """Processes of this machine, none of which has run anything yet, that write to a log file instead of the terminal.

    Raises:
        SlimError: one of them was killed.
    """
    others = set(active_children())
    # Where there is a fork server the imports, seconds of each process, are made once, in the server.
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([Point.__module__, "torchvision"])  # Ultralytics imports it late
    pool = ProcessPoolExecutor(workers, context, _settle, (str(log),))

    def start(points: Sequence[Point]) -> list[Future]:
        # Ctrl-C is for this process, which then ends the others: they are born with it blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return [pool.submit(work, point) for point in points]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield start
    except BaseException as e:
        for process in set(active_children()) - others:
            process.terminate()
        if isinstance(e, BrokenProcessPool):
            raise SlimError(
                f"a process of the sweep was killed, perhaps for want of memory ({log} may say more). Finished points "
                "are kept: run it again, with sweep.workers=1 to need less"
            ) from e
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _settle(log: str) -> None:
    """A process's first deed: leave the terminal alone, and end when the sweep ends, even if that was killed."""
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    if sweep := parent_process():
        sweep.join()
    os._exit(1)


def ray_module() -> ModuleType:
    """Ray.

    Raises:
        SlimError: it is not installed.
    """
    try:
        import ray
    except ImportError as e:
        raise SlimError(
            "sweep.executor=ray needs Ray: pip install yolo-slim[ray] (or sweep.executor=processes does without)"
        ) from e
    return ray


@contextmanager
def on_ray(ray: ModuleType, workers: int, threads: int, address: str | None, device: str) -> Iterator[Start]:
    """Tasks on a running cluster, as many at a time as it has room for, or on one of `workers` started here.

    Each has `threads` CPUs, or as many as the smallest node, and a GPU of its own where `device` is one.

    Raises:
        SlimError: no cluster answers at the address, none can be started here, or no node has what a task needs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing here goes online
    address = address or os.environ.get("RAY_ADDRESS")
    local = {"address": "local", "num_cpus": workers * threads, "include_dashboard": False}
    ours = not ray.is_initialized()
    try:
        if ours:
            ray.init(**({"address": address} if address else local), log_to_driver=False, logging_level="ERROR")
    except Exception as e:  # Ray raises bare ones, as when its processes are not up within 30 s
        hint = (
            "Is it running (`ray status`), and if it asks for a token, does this shell have it (Ray's documentation: "
            "token authentication)?"
            if address
            else "Is the machine very busy? sweep.executor=processes does without Ray"
        )
        raise SlimError(f"cannot use Ray at {address or 'this machine'}: {e} {hint}") from e
    try:
        cpus, gpus = _room(ray, threads, device)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_on_node)
        yield lambda points: [task.remote(replace(point, threads=cpus)).future() for point in points]
    finally:
        if ours:
            ray.shutdown()


def _room(ray: ModuleType, threads: int, device: str) -> tuple[int, int]:
    """CPUs and GPUs of a task, such that every node that can do one at all has room: else it would wait forever."""
    gpus = int(device not in ("cpu", "mps"))
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("GPU", 0) >= gpus]
    if not any(cpus):
        wanted = "a CPU and a GPU" if gpus else "a CPU"
        raise SlimError(
            f"device={device} needs nodes with {wanted}, and Ray knows of none (`ray status`): start them first"
            + (", or set device=cpu" if gpus else "")
        )
    return min(threads, *filter(None, cpus)), gpus


def _on_node(point: Point) -> tuple[str, str | None]:
    """`work` on the GPU that Ray has given this task: by the user's number, all tasks of a node would take the same."""
    if gpus := ray_module().get_runtime_context().get_accelerator_ids().get("GPU"):
        point = replace(point, config=point.config.model_copy(update={"device": gpus[0]}))
    return work(point)
