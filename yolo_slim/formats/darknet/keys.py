"""Which keys each section of a cfg may have: those that say what is computed, and those that training alone reads.

A key that nobody knows might change what a layer computes; only `[net]` and `[yolo]` compute nothing with those that
are not listed here, and may hold others.
"""

from __future__ import annotations

from collections.abc import Mapping

from yolo_slim.errors import plain, shown
from yolo_slim.formats.darknet.cfg import Section

STEPS = ("stride", "stride_x", "stride_y")
PADS = ("pad", "padding")

COMPUTED: Mapping[str, frozenset[str]] = {
    "convolutional": frozenset(["batch_normalize", "filters", "size", "groups", "activation", *STEPS, *PADS]),
    "maxpool": frozenset(["size", "padding", *STEPS]),
    "upsample": frozenset({"stride"}),
    "route": frozenset(["layers", "groups", "group_id"]),
    "shortcut": frozenset(["from", "activation"]),
    "dropout": frozenset(["probability", "dropblock", "dropblock_size_rel", "dropblock_size_abs"]),
    "yolo": frozenset(["mask", "anchors", "classes", "num", "scale_x_y", "new_coords"]),
}
"""Section -> what is read of it. The sections that are understood."""

NEUTRAL: Mapping[str, Mapping[str, str]] = {
    "convolutional": {
        **dict.fromkeys(["binary", "xnor", "bin_output", "flipped", "dot", "antialiasing", "assisted_excitation"], "0"),
        **dict.fromkeys(["sway", "rotate", "stretch", "stretch_sway", "deform"], "0"),
        "dilation": "1",
    },
    "maxpool": {"maxpool_depth": "0", "antialiasing": "0", "maxpool_zero_nonmax": "0", "out_channels": "1"},
    "upsample": {"scale": "1"},
    "route": {"stream": "0"},
    "shortcut": {"weights_type": "none", "weights_normalization": "none"},
}
"""Section -> keys that change what it computes, with the value at which they do not: another is refused."""

TRAINING = frozenset(
    (
        *("stopbackward", "dontload", "dontloadscales", "dontsave", "onlyforward", "train_only_bn", "learning_rate"),
        *("clip", "burnin_update", "numload", "learning_scale_coef", "freeze", "name"),
    )
)
"""What Darknet reads of any section while it trains or loads."""

MANY_KEYS = ("net", "network", "yolo")
"""Sections whose other keys are about training, or what is shown."""


def check_keys(section: Section) -> None:
    """Refuse a section that is not understood, and keys of it that are not.

    Raises:
        SlimError: the line, what it says, and what is supported.
    """
    known = COMPUTED.get(section.kind)
    if known is None:
        section.refuse(f"this section is not supported; those that are: {', '.join(f'[{kind}]' for kind in COMPUTED)}")
    neutral = NEUTRAL.get(section.kind, {})
    for key in section.entries:
        if key in neutral and (said := section.text(key)) != neutral[key]:
            section.refuse(f"{key}={shown(said)} is not supported, only {key}={neutral[key]}", key)
        if key not in known and key not in neutral and key not in TRAINING and section.kind not in MANY_KEYS:
            section.refuse(f"{plain(key)}= is not supported; what is: {', '.join(sorted(known))}", key)
