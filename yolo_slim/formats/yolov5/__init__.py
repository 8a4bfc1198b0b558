"""Detectors of the ultralytics/yolov5 repository, v2.0 to today: read, trained and written as what they are.

words       what its pickles name, and what stands for it here
layers      its head with anchors, and layers that Ultralytics has none like
model       the whole, as Ultralytics' trainer takes one
loss        what it pays for what it says
door        is it what it seems?
storing     checkpoints, in and out
"""
