"""The page at the end: what report.json holds, as sentences, tables and plots. Reads records, never detectors."""

from yolo_slim.called import also_called
from yolo_slim.report.advice import advice
from yolo_slim.report.bench_words import BENCH_HEAD, bench_markdown, bench_rows, bench_sentences
from yolo_slim.report.changes import LEAST, counted, most_changed, picture
from yolo_slim.report.device_words import device_warnings, widths_said
from yolo_slim.report.doubt import difference, in_brackets, sure, sure_of, undecided
from yolo_slim.report.files import draw, scan_plot, sweep_plot
from yolo_slim.report.operating import moved, not_measured, warnings, worth
from yolo_slim.report.page import page
from yolo_slim.report.scan import scan_summary
from yolo_slim.report.speed import chosen
from yolo_slim.report.sweep_words import (
    SWEEP_HEAD,
    failures,
    recommended,
    sentences,
    stays_within,
    sweep_markdown,
    sweep_rows,
    tells,
)
from yolo_slim.report.tables import markdown, rounds, summary
from yolo_slim.report.verdict import changes, verdict

__all__ = [
    "BENCH_HEAD",
    "LEAST",
    "SWEEP_HEAD",
    "advice",
    "bench_markdown",
    "bench_rows",
    "bench_sentences",
    "changes",
    "chosen",
    "counted",
    "device_warnings",
    "difference",
    "draw",
    "failures",
    "in_brackets",
    "markdown",
    "most_changed",
    "moved",
    "not_measured",
    "page",
    "picture",
    "recommended",
    "rounds",
    "scan_plot",
    "scan_summary",
    "sentences",
    "stays_within",
    "summary",
    "sure",
    "sure_of",
    "sweep_markdown",
    "sweep_plot",
    "sweep_rows",
    "tells",
    "undecided",
    "verdict",
    "warnings",
    "widths_said",
    "worth",
]

also_called(__name__)
