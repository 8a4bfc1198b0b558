"""What each layer of an exported file takes, as the runtime itself tells it, under the names of modules."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from yolo_slim.deploy.engines import openvino_model
from yolo_slim.scratch import Scratch

Nodes = dict[str, float]
"""Name of an operator, as the exporter wrote it -> milliseconds."""


def in_onnxruntime(file: Path, threads: int, images: np.ndarray, runs: int) -> Nodes:
    """Medians over runs, after one that is not counted."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level, options.enable_profiling = 3, True
    with Scratch() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(None, {session.get_inputs()[0].name: images})
        events = json.loads(Path(session.end_profiling()).read_text())
    times = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e3)
    return {name: float(np.median(each[1:])) for name, each in times.items()}


def in_openvino(file: Path, threads: int, images: np.ndarray, runs: int) -> Nodes:
    """Medians over runs, after one that is not counted."""
    request = openvino_model(file, threads, PERF_COUNT=True).create_infer_request()
    turns = []
    for _ in range(runs + 1):
        request.infer([images])
        done = (node for node in request.profiling_info if node.status.name == "EXECUTED")
        turns.append({node.node_name: node.real_time.total_seconds() * 1e3 for node in done})
    # What was not executed in a run, or in less than a microsecond, took nothing in it.
    return {name: float(np.median([turn.get(name, 0.0) for turn in turns[1:]])) for name in set().union(*turns)}


def by_layer(nodes: Mapping[str, float], convs: Collection[str]) -> dict[str, float]:
    """Milliseconds of each convolution, its activation and reordering included; under "" everything else."""
    parents = defaultdict(list)
    for name in convs:
        parents[name.rpartition(".")[0]].append(name)
    found = dict.fromkeys([*convs, ""], 0.0)
    for node, ms in nodes.items():
        path = module_of(node)
        own = [path] if path in found else parents[path.rpartition(".")[0]]
        found[own[0] if path and len(own) == 1 else ""] += ms
    return found


def module_of(node: str) -> str:
    """The module that an operator stands for: `/model.2/m/m.0/cv1/conv/Conv` is of model.2.m.0.cv1.conv.

    In files that OpenVINO has made of PyTorch's graph it is `__module.model.2.m.0.cv1.conv/aten::_convolution/...`.
    """
    if module := re.search(r"__module\.(model\.\d[^/]*)/", node):
        return module[1]
    path = re.search(r"/(model\.\d+/.*)", node)
    if not path:
        return ""
    scopes = re.sub(r"(_output_\d+.*|/QuickGeluFusion/?|/WithoutBiases)$", "", path[1]).split("/")[:-1]
    kept = [s for s, after in zip(scopes, [*scopes[1:], ""], strict=True) if not after.startswith(f"{s}.")]
    return ".".join(kept)
