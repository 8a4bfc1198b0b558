"""What a student pays for differing from its teacher: one idea a file."""

from yolo_slim.distill.mimic import Mimic

__all__ = ["Mimic"]
