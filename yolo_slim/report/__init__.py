"""The page at the end: what report.json holds, as sentences, tables and plots. Reads records, never detectors."""

from yolo_slim.report.plots import draw
from yolo_slim.report.tables import markdown, rounds, summary

__all__ = ["draw", "markdown", "rounds", "summary"]
