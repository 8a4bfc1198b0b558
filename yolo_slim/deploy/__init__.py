"""Files for devices, and the proof that each agrees with PyTorch."""

from yolo_slim.deploy.onnx import compare_onnx, export_onnx

__all__ = ["compare_onnx", "export_onnx"]
