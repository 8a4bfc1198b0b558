"""Files for devices, and the proof that each agrees with PyTorch."""

from yolo_slim.deploy.onnx import compare_onnx, export_onnx
from yolo_slim.deploy.profile import PROFILES, by_layer
from yolo_slim.deploy.runtimes import RUNTIMES, opened, present

__all__ = ["PROFILES", "RUNTIMES", "by_layer", "compare_onnx", "export_onnx", "opened", "present"]
