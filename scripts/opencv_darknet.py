"""What OpenCV 4 makes of a Darknet cfg and its weights; for a Python that has it (OpenCV 5 reads no Darknet files).

    python -m venv cv4 && cv4/bin/pip install "opencv-python-headless<5"
    cv4/bin/python scripts/opencv_darknet.py net.cfg net.weights image.npy answer.npz [runs]

`image.npy`: (1, C, H, W) float32. `answer.npz` holds of every `[yolo]`, in order, `raw<i>` (1, H, W, A * (5 + K)) and
`decoded<i>` (H * W * A, 5 + K); the last line on the screen is JSON: OpenCV's version, milliseconds of each run.
"""

from __future__ import annotations

import json
import sys
import time


def main(cfg: str, weights: str, image: str, answer: str, runs: str = "0") -> None:
    """Run a net on an image and keep its answers."""
    import cv2
    import numpy as np

    cv2.setNumThreads(2)
    net = cv2.dnn.readNetFromDarknet(cfg, weights)
    names = {kind: [n for n in net.getLayerNames() if n.startswith(f"{kind}_")] for kind in ("permute", "yolo")}
    x = np.load(image)
    net.setInput(x)
    outputs = net.forward([*names["permute"], *names["yolo"]])
    half = len(outputs) // 2
    raw = {f"raw{i}": out for i, out in enumerate(outputs[:half])}
    np.savez(answer, image=x, **raw, **{f"decoded{i}": out for i, out in enumerate(outputs[half:])})
    times = []
    for _ in range(int(runs)):
        net.setInput(x)
        start = time.perf_counter()
        net.forward(names["yolo"])
        times.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"opencv": cv2.__version__, "ms": times}))


if __name__ == "__main__":
    main(*sys.argv[1:])
