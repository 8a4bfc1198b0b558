"""The table: what each device makes of widths, each fact with its source and how it was checked."""

from __future__ import annotations

from yolo_slim.devices.kinds import Device, Fact, Padding, Rules


def _same(multiple: int) -> Padding:
    return Padding((multiple,), (multiple,), (multiple,))


_TOOLKIT = "https://pypi.org/project/rknn-toolkit2/2.3.2/"
_BUILT = "printed by Rockchip's compiler for the RK3588 (rknn-toolkit2 2.3.2, widths 8 to 100)"
_MESA = "https://gitlab.freedesktop.org/mesa/mesa/-/tree/main/src/gallium/drivers/rocket"
_ONEDNN = "https://uxlfoundation.github.io/oneDNN/dev_guide_understanding_memory_formats.html"
_MLAS = "https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/optimizer/nchwc_transformer.cc"
_TENSORRT = "https://github.com/NVIDIA/TensorRT/blob/main/include/NvInferRuntimeBase.h"
_NCNN = "https://github.com/Tencent/ncnn/tree/master/src/layer/arm"
_ULTRALYTICS = "https://github.com/ultralytics/ultralytics/blob/main/ultralytics/engine/exporter.py"

DEVICES: dict[str, Device] = {
    "onnxruntime": Device(
        "ONNX Runtime, x86 CPU",
        "onnx",
        {"fp32": Rules(8, *[Padding(outputs=(8,))] * 2), "int8": Rules(8)},
        facts=(
            Fact("outputs are filled up to the block of the CPU's vectors", _MLAS, "read in its source"),
            Fact(
                "inputs that are no multiple of it (above one block) keep the layer out of that layout",
                _MLAS,
                "read in its source",
            ),
            Fact("the block has 8 channels with AVX2, 16 with AVX-512", _MLAS, "16 read in its tests, 8 not"),
            Fact("INT8: no multiple was found in its documents", "https://onnxruntime.ai/docs/performance/"),
        ),
    ),
    "openvino": Device(
        "OpenVINO, x86 CPU",
        "openvino",
        {"fp32": Rules(8, _same(8), _same(8)), "int8": Rules(16)},
        facts=(
            Fact(
                "channels are stored in blocks of 8 (AVX2) or 16 (AVX-512), the last filled up with zeros",
                _ONEDNN,
                "read in oneDNN's guide; its maintainers: https://github.com/uxlfoundation/oneDNN/issues/381",
            ),
            Fact("INT8: x16; no statement of the vendor was found", _ONEDNN),
        ),
    ),
    "tensorrt": Device(
        "TensorRT, NVIDIA GPU",
        "engine",
        {"fp16": Rules(8, _same(8), _same(8)), "int8": Rules(32, _same(32), _same(32))},
        facts=(
            Fact("fp16: kHWC8 fills channels up to a multiple of 8", _TENSORRT, "read in NVIDIA's header"),
            Fact("INT8: kCHW32 stores channels by 32, the last group filled up", _TENSORRT, "read in NVIDIA's header"),
            Fact(
                "the builder may choose other layouts for a layer",
                "https://github.com/NVIDIA/TensorRT/issues/3876",
                "read in the thread",
            ),
        ),
    ),
    "ncnn": Device(
        "ncnn, ARM CPU",
        "ncnn",
        {"fp16": Rules(8), "fp32": Rules(4), "int8": Rules(8)},
        facts=(
            Fact(
                "fp16: 8 channels at a time where the width is a multiple of 8, else 4, else 1",
                _NCNN,
                "read in its source",
            ),
            Fact(
                "fp32: 4 channels at a time where the width is a multiple of 4, else 1; nothing is filled up",
                _NCNN,
                "read in its source",
            ),
            Fact("INT8: x8", _NCNN),
        ),
    ),
    "rknn": Device(
        "RKNN, Rockchip NPU",
        "rknn",
        {
            "int8": Rules(32, Padding((32,), (32,), (64,)), Padding((16,), (1,), (16, 32, 64))),
            "fp16": Rules(16, Padding((32,), (16,), (64,)), Padding((8, 16, 32), (1,), (8, 16, 32))),
        },
        least=16,
        fixed_shape=True,
        calibration=20,
        avoid={
            "C2f": "its Split takes about 200 µs that compute nothing, each Concat about 300",
            "C3k2": "its Split takes about 200 µs that compute nothing, each Concat about 300",
        },
        facts=(
            Fact(
                "cycles of a 3x3 convolution: by 32 inputs and 32 outputs in INT8, by 32 and 16 in fp16",
                _TOOLKIT,
                _BUILT,
            ),
            Fact(
                "weights: inputs by 16 in INT8 (the last 32 by 8, 16 or 32 in fp16), outputs not at all",
                _TOOLKIT,
                _BUILT,
            ),
            Fact(
                "depthwise: cycles by 64; weights by 64, the last by 16, 32 or 64 in INT8, 8, 16 or 32 in fp16",
                _TOOLKIT,
                _BUILT,
            ),
            Fact("maps: channels by 32 in INT8, by 16 in fp16", _TOOLKIT, _BUILT),
            Fact(
                "Mesa's driver: outputs x16, inputs at least 16 and x32, depthwise x64, INT8 alone; 12 buffers of "
                "32 KiB on the RK3588",
                _MESA,
                "inputs and depthwise read in its source (rkt_coefs.c), buffers not",
            ),
            Fact(
                "Split about 200 µs and Concat about 300 µs in YOLOv8",
                "https://github.com/airockchip/rknn-toolkit2/issues/163",
                "read in the thread's log",
            ),
            Fact("20 images to calibrate on", "https://github.com/airockchip/rknn-toolkit2"),
        ),
    ),
    "hailo": Device(
        "Hailo-8, 8L, 10H, 15H",
        "hailo",
        {"int8": Rules(8)},
        fixed_shape=True,
        calibration=1024,
        facts=(
            Fact(
                "no multiple of channels is published: how many contexts the network is split into decides",
                "https://github.com/hailo-ai/hailo_model_zoo/issues/84",
            ),
            Fact("1,024 images to calibrate on", _ULTRALYTICS, "Ultralytics' exporter says so of Hailo"),
            Fact(
                "HEF files have one shape and INT8",
                "https://docs.ultralytics.com/integrations/hailo",
                "read in Ultralytics' guide",
            ),
        ),
    ),
    "qnn": Device(
        "Qualcomm Hexagon (HTP)",
        "qnn",
        {"int8": Rules(32, _same(32), _same(32)), "fp16": Rules(32, _same(32), _same(32))},
        fixed_shape=True,
        facts=(
            Fact(
                "round the number of channels of a layer up to a multiple of 32",
                "https://docs.qualcomm.com/doc/80-63442-10/topic/htp_guidelines_channels.html",
                "read in Qualcomm's guide",
            ),
            Fact(
                "activations are stored with channels filled up to the next multiple of 32",
                "https://docs.qualcomm.com/doc/80-63442-10/topic/htp_guidelines_low_depth_activations.html",
                "read in Qualcomm's guide",
            ),
        ),
    ),
    "edgetpu": Device(
        "Coral Edge TPU",
        "edgetpu",
        {"int8": Rules(8)},
        cache=8 << 20,
        fixed_shape=True,
        avoid={"LeakyReLU": "not among the Edge TPU's operators: all from the first of it on runs on the CPU"},
        facts=(
            Fact(
                "about 8 MB hold weights; what does not fit is read from the host for every image",
                "https://coral.ai/docs/edgetpu/compiler/",
                "the size in compiler logs alone: "
                "https://github.com/google-coral/edgetpu/issues/324 (8.2 MiB in all) and 518 (7.2 MiB)",
            ),
            Fact(
                "operators: Conv2d, DepthwiseConv2d, Concatenation, Logistic, Mul, MaxPool2d, ...; no LeakyRelu",
                "https://coral.ai/docs/edgetpu/models-intro/#supported-operations",
                "read in Axis' copy: https://developer.axis.com/computer-vision/on-device/system-on-chip/artpec-7/",
            ),
            Fact("no multiple of channels is published", "https://coral.ai/docs/edgetpu/models-intro/"),
        ),
    ),
    "coreml": Device(
        "Core ML, Apple",
        "coreml",
        {"fp16": Rules(8), "fp32": Rules(8), "int8": Rules(8)},
        facts=(Fact("Apple publishes no multiple of channels", "https://apple.github.io/coremltools/docs-guides/"),),
    ),
    "tflite": Device(
        "LiteRT (TensorFlow Lite)",
        "litert",
        {"fp32": Rules(8), "int8": Rules(8)},
        facts=(Fact("no multiple of channels is published for its CPU kernels", "https://ai.google.dev/edge/litert"),),
    ),
}
"""Name -> device. One of your own is put in here, and `prune.device` takes its name."""
