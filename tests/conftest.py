"""One thread, no network: set before Ultralytics is imported."""

import os

os.environ.setdefault("YOLO_OFFLINE", "true")

import torch  # noqa: E402

torch.set_num_threads(1)
