"""Ultralytics' trainer, kept from rebuilding a slim detector; what it may add to a step; data for recalibration."""
