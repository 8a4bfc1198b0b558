"""One thread, no network: set before Ultralytics is imported."""

import os

os.environ.setdefault("YOLO_OFFLINE", "true")

import torch

torch.set_num_threads(1)
