"""The page at the end: what report.json holds, as sentences, tables and plots. Reads records, never detectors."""

from yolo_slim.report.plots import draw
from yolo_slim.report.scan import draw_scan, scan_summary
from yolo_slim.report.tables import markdown, summary

__all__ = ["draw", "draw_scan", "markdown", "scan_summary", "summary"]
