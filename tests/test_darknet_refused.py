"""What is not understood, hostile or damaged in Darknet's files is refused: one message, with line and way out."""

import os
import re
import resource
import struct
import time

import numpy as np
import pytest
import torch
from darknet_nets import HEADER, SMALL, conv, head, net, section, written, yolo

from yolo_slim.errors import SlimError
from yolo_slim.formats import darknet
from yolo_slim.formats.darknet.net import read_net

MESSAGE = 500
"""Characters that a refusal has at most, its path aside."""


def line_of(text, word):
    """The line, from 1, in which a word stands first."""
    return text[: text.index(word)].count("\n") + 1


def after(*more, before=""):
    """Sections behind a first convolution and before the head."""
    return net() + before + conv(8, 3, 2) + "".join(more) + head()


@pytest.mark.parametrize(
    ("text", "word", "message"),
    [
        # sections
        pytest.param(after(section("avgpool")), "[avgpool]", r"\[avgpool\].*not supported.*\[route\]", id="avgpool"),
        pytest.param(after(section("sam", from_=-1)), "[sam]", "not supported", id="sam"),
        pytest.param(after(section("scale_channels", from_=-1)), "[scale_channels]", "not supported", id="squeeze"),
        pytest.param(after(section("softmax")), "[softmax]", "not supported", id="softmax"),
        pytest.param(after(section("local_avgpool")), "[local_avgpool]", "not supported", id="local_avgpool"),
        pytest.param(after(section("reorg", stride=2)), "[reorg]", "not supported", id="YOLOv2's"),
        pytest.param(after(section("region")), "[region]", "not supported", id="YOLOv2's head"),
        pytest.param(after(section("Gaussian_yolo")), "[Gaussian_yolo]", "not supported", id="Gaussian YOLO"),
        pytest.param(after(section("rnn")), "[rnn]", "not supported", id="rnn"),
        pytest.param(after(section("connected", output=3)), "[connected]", "not supported", id="connected"),
        pytest.param(after("[]\n"), "[]", "not supported", id="no name"),
        # keys and values
        pytest.param(after(conv(8, activation="elu")), "activation=elu", "'elu'.*leaky", id="activation"),
        pytest.param(after(conv(8, activation="silu")), "activation=silu", "'silu'.*swish", id="Darknet says swish"),
        pytest.param(
            after("[convolutional]\n#none\nfilters=8\n"),
            "[convolutional]\n#none",
            "lacks activation=",
            id="no activation",
        ),
        pytest.param(after(conv(8, dilation=2)), "dilation=2", "only dilation=1", id="dilation"),
        pytest.param(after(conv(8, deform=1)), "deform=1", "only deform=0", id="deformable"),
        pytest.param(after(conv(8, xnor=1)), "xnor=1", "only xnor=0", id="binary weights"),
        pytest.param(
            after(conv(8, flitlers=1)), "flitlers=1", "flitlers= is not supported.*filters", id="a misspelt key"
        ),
        pytest.param(after(conv(8, stride_x=2)), "stride_x=2", "same both ways", id="another stride across"),
        pytest.param(after(conv(0)), "filters=0", r"'0'; expected a number from 1 to", id="no filters"),
        pytest.param(after(conv(-3)), "filters=-3", "'-3'", id="fewer than none"),
        pytest.param(after(conv(10**9)), "filters=1000000000", "expected a number from 1", id="a milliard filters"),
        pytest.param(after(conv("9" * 5000)), "filters=9", "expected a number", id="a number of 5,000 digits"),
        pytest.param(after(conv("eight")), "filters=eight", "'eight'", id="a word"),
        pytest.param(after(conv("8.5")), "filters=8.5", "'8.5'", id="half a filter"),
        pytest.param(after(conv("٣")), "filters=٣", "expected a number", id="another script's number"),
        pytest.param(after(conv("8,8")), "filters=8,8", "expected a number", id="two numbers"),
        pytest.param(after(conv("")), "filters=\n", "expected a number", id="nothing"),
        pytest.param(after(conv(8, "1e3")), "size=1e3", "expected a number", id="1e3"),
        pytest.param(after(conv(8, 300)), "size=300", "1 to 255", id="a kernel beyond bounds"),
        pytest.param(after(conv(8, groups=3)), "groups=3", "divides 8 channels into 8", id="groups that do not divide"),
        pytest.param(after(conv(8, norm=False, batch_normalize=2)), "batch_normalize=2", "0 to 1", id="another norm"),
        pytest.param(after(section("maxpool", size=2, stride=2, padding=2)), "padding=2", "0 to 1", id="pad of a pool"),
        pytest.param(after(section("maxpool", maxpool_depth=1)), "maxpool_depth=1", "only", id="over channels"),
        pytest.param(
            after(section("maxpool", size=40, stride=99, padding=0)), "[maxpool]", "nothing is left", id="pooled away"
        ),
        pytest.param(after(section("upsample", stride=-2)), "stride=-2", "'-2'", id="upsampling backwards"),
        pytest.param(after(section("upsample", scale=2)), "scale=2", "only scale=1", id="a scaled upsampling"),
        pytest.param(
            after(section("upsample", stride=2) + "stride=4\n"),
            "stride=2\nstride=4",
            "stride='2', and line 19 says '4': only one",
            id="said twice",
        ),
        # sources
        pytest.param(after(section("route", layers=-2)), "layers=-2", "-1 to 0", id="before the first layer"),
        pytest.param(after(section("route", layers=1)), "layers=1", "-1 to 0", id="a circle: itself"),
        pytest.param(after(section("route", layers="0,7")), "layers=0,7", "-1 to 0", id="a layer that comes later"),
        pytest.param(after(section("route", layers="")), "layers=\n", "'';", id="no layer"),
        pytest.param(after(section("route")), "[route]", "lacks layers=", id="no layers"),
        pytest.param(after(section("route", layers=",".join(["0"] * 65))), "layers=0", "at most 64", id="too many"),
        pytest.param(after(section("route", layers=-1, groups=3)), "groups=3", "divides the 8", id="parts not whole"),
        pytest.param(
            after(section("route", layers=-1, groups=2, group_id=2)), "group_id=2", "0 to 1", id="no such part"
        ),
        pytest.param(
            after(section("route", layers="-1,0", groups=2)), "groups=2", "of several layers", id="parts of many"
        ),
        pytest.param(
            after(conv(8, 3, 2), section("route", layers="-1,0")), "layers=-1,0", "one size", id="sizes differ"
        ),
        pytest.param(net() + section("route", layers=0) + head(), "layers=0", "expected", id="a route at the start"),
        pytest.param(
            after(section("shortcut", from_=-1, activation="relu")),
            "activation=relu",
            "only activation=linear",
            id="a sum with an activation",
        ),
        pytest.param(after(conv(9), section("shortcut", from_=-2)), "from=-2", "only equal widths", id="csresnext50"),
        pytest.param(
            after(conv(8, 3, 2), section("shortcut", from_=-2)), "from=-2", "only equal", id="sum of two sizes"
        ),
        pytest.param(
            after(section("shortcut", from_=-1, weights_type="per_feature")),
            "weights_type",
            "only weights_type=none",
            id="a weighted sum",
        ),
        # the head
        pytest.param(net() + conv(16), "[convolutional]", r"ends in \[yolo\]", id="no head"),
        pytest.param(SMALL + "[dropout]\n", "[dropout]", "whose output is boxes", id="it reads boxes"),
        pytest.param(SMALL + section("route", layers=-1), "layers=-1", "whose output is boxes", id="routed boxes"),
        pytest.param(SMALL + section("route", layers=0), "[route]", r"ends in \[yolo\]", id="it goes on"),
        pytest.param(
            net() + conv(9) + yolo(), "[yolo]", "9 channels; expected 16, for 2 anchors", id="filters of a head"
        ),
        pytest.param(net() + conv(16) + yolo("0,4"), "mask=0,4", "0 to 3", id="a mask beyond the anchors"),
        pytest.param(net() + conv(16) + yolo(anchors="1,2,3"), "anchors=1,2,3", "pairs", id="half an anchor"),
        pytest.param(net() + conv(16) + yolo(anchors="1,nan"), "anchors=1,nan", "expected", id="no anchor"),
        pytest.param(net() + conv(16) + yolo(anchors="1,-2"), "anchors=1,-2", "expected", id="an anchor below zero"),
        pytest.param(net() + conv(16) + yolo().replace("num=4", "num=5"), "num=5", "4 pairs", id="num"),
        pytest.param(
            net() + conv(16) + section("yolo", mask="0,1", anchors="1,2,3,4"),
            "[yolo]",
            "lacks classes=",
            id="no classes",
        ),
        pytest.param(
            net() + conv(16) + section("yolo", mask="0,1", classes=3), "[yolo]", "lacks anchors=", id="no anchors"
        ),
        pytest.param(net() + conv(16) + yolo(scale_x_y="inf"), "scale_x_y=inf", "0.1 to 10", id="endless cells"),
        pytest.param(
            SMALL + section("route", layers=0) + head(classes=4), "classes=4", "expected the same", id="other classes"
        ),
        pytest.param(net(36, 36) + conv(8, 3, 8) + head(), "[yolo]", "5 x 5 cells does not divide", id="uneven maps"),
        # the image
        pytest.param(SMALL.replace("width=32\n", ""), "[net]", "lacks width=", id="no width"),
        pytest.param(SMALL.replace("channels=3\n", ""), "[net]", "lacks channels=", id="no channels"),
        pytest.param(net(0) + head(), "width=0", "expected a number from 1", id="no image"),
        pytest.param(net(99999999) + head(), "width=99999999", "16,384", id="a huge image"),
        pytest.param(net(), "[net]", "no layer follows", id="nothing but an image"),
        # text
        pytest.param("width=3\n" + SMALL, "width=3", "before the first section", id="no section"),
        pytest.param(after("[maxpool\nsize=2\n"), "[maxpool", "does not end one", id="a bracket is missing"),
        pytest.param(after(section("dropout") + "probability\n"), "probability\n", "expected key=value", id="no value"),
        pytest.param("\ufeff" + SMALL, "\ufeff", "before the first section", id="a mark of Windows"),
        # sizes
        pytest.param(
            after(*[section("upsample", stride=16)] * 9), "[upsample]", "no detector does", id="grown without end"
        ),
        pytest.param(after(conv(2048, 9), conv(2048, 9)), "", "multiplications", id="days for an image"),
        pytest.param(net(1, 1) + conv(1 << 18) + conv(1 << 18) + head(), "", "parameters", id="too large for any disk"),
    ],
)
def test_a_cfg_is_refused_by_line_and_name(text, word, message):
    with pytest.raises(SlimError) as e:
        read_net(text)
    told = str(e.value)
    assert re.search(message, told, re.DOTALL), told
    if word and "no detector does" not in message:
        assert told.startswith(f"is refused at line {line_of(text, word)}"), told
    assert re.match(r"is refused at line \d+", told) and len(told) < MESSAGE and told.isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "has no section", id="nothing"),
        pytest.param("[convolutional]\nfilters=1\n", r"begins with \[convolutional\], expected \[net\]", id="no net"),
        pytest.param("[" + "a" * 10_000 + "]\n", "begins with", id="a long name"),
        pytest.param("[\x1b[2J]\n", r"\\x1b", id="control characters"),
        pytest.param(SMALL.replace("batch", "b\0tch"), "zero byte", id="a zero byte"),
        pytest.param("[net]\n" + "#" * (2 << 20), "characters", id="a long comment"),
        pytest.param(net() + "[dropout]\n" * 2000, "more than 1,000 sections", id="too many sections"),
        pytest.param("[net]\n" + "".join(f"k{i}=1\n" for i in range(2000)), "more than 1,000 keys", id="too many keys"),
    ],
)
def test_what_is_no_cfg_is_refused(text, message):
    with pytest.raises(SlimError, match=message) as e:
        read_net(text)
    assert len(str(e.value)) < MESSAGE and str(e.value).isprintable()


# ---- weights ----

WHOLE = len(HEADER.packed()) + 4 * (4 * 6 + 6 * 27 + 4 * 8 + 8 * 54 + 16 + 16 * 8)


def numbers(content):
    return np.frombuffer(content, "<f4", offset=20).copy()


def with_number(at, value):
    def change(content):
        values = numbers(content)
        values[at] = value
        return HEADER.packed() + values.tobytes()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda c: c[:-4], r"holds 793 numbers, .* describes 794.*within layer 2 \(line \d+, \[conv", id="short"
        ),
        pytest.param(lambda c: c[:-3], "793 numbers and 1 bytes", id="cut in a number"),
        pytest.param(lambda c: c[:300], r"within layer 0", id="cut early"),
        pytest.param(lambda c: c[:19], "has 19 bytes", id="cut in its header"),
        pytest.param(lambda c: b"", "has 0 bytes", id="nothing"),
        pytest.param(lambda c: c + c[-4:], "795 numbers.*behind the last layer", id="long"),
        pytest.param(lambda c: c + b"\0" * (64 << 20), "behind the last layer", id="very long"),
        pytest.param(lambda c: HEADER._replace(minor=1).packed() + c[20:] + b"\0" * 4, "795", id="another header"),
        pytest.param(lambda c: struct.pack("<iiiQ", -1, 2, 5, 0) + c[20:], "version -1.2.5", id="a version below zero"),
        pytest.param(lambda c: struct.pack("<iiiQ", 2000, 2, 5, 0) + c[20:], "version 2000", id="transposed weights"),
        pytest.param(lambda c: struct.pack("<iiiQ", 0, 2, 5, 1 << 63) + c[20:], "images were seen", id="seen"),
        pytest.param(lambda c: bytes(np.random.default_rng(0).bytes(len(c))), "version", id="noise"),
        pytest.param(lambda c: b"PK\3\4" + c, "version", id="a zip"),
        pytest.param(with_number(3, np.nan), r"NaN or infinity in the biases of layer 0 \(line", id="NaN"),
        pytest.param(with_number(-1, -np.inf), "in the weights of layer 2", id="infinity"),
        pytest.param(with_number(18, -1.0), "variances below zero in layer 0", id="a variance below zero"),
    ],
)
def test_damaged_weights_are_refused(tmp_path, change, message):
    path = written(tmp_path, SMALL)
    weights = path.with_suffix(".weights")
    content = weights.read_bytes()
    assert len(content) == WHOLE
    weights.write_bytes(change(content))
    with pytest.raises(SlimError, match=message) as e:
        darknet.load(path)
    assert str(e.value).startswith(str(weights)) and len(str(e.value)) < MESSAGE + len(str(weights))


# ---- files ----


def test_missing_files_are_told(tmp_path):
    with pytest.raises(SlimError, match=r"none\.cfg is not there: expected a Darknet cfg"):
        darknet.load(tmp_path / "none.cfg")
    path = written(tmp_path, SMALL)
    path.with_suffix(".weights").rename(tmp_path / "other.weights")
    with pytest.raises(SlimError, match=r"no weights beside .*net\.weights.*in that folder: other\.weights"):
        darknet.load(path)
    with pytest.raises(SlimError, match=r"far\.weights is not there: expected the weights of net\.cfg"):
        darknet.load(path, tmp_path / "far.weights")


def test_what_is_no_file_is_refused(tmp_path):
    path = written(tmp_path, SMALL)
    os.mkfifo(tmp_path / "pipe")
    for other, message in [
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "no regular file"),
        ("a\0b", "is not there|cannot be read"),
        ("a" * 999, "is not there|cannot be read"),
    ]:
        for given in ((other,), (path, other)):
            with pytest.raises(SlimError, match=message):
                darknet.load(*given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            SMALL.encode().replace(b"# Testing", b"# \xd1\xb5\xff"), "line 2: it is no UTF-8", id="a comment in GBK"
        ),
        pytest.param(b"[net]\n" + b"\0" * 100, "zero byte", id="zero bytes"),
        pytest.param(b"[net]\n" + b"a=1\n" * (25 << 20), "has 104,857,606 bytes", id="100 MB"),
        pytest.param(np.random.default_rng(0).bytes(5000), "no UTF-8", id="noise"),
    ],
)
def test_other_files_are_no_cfg(tmp_path, content, message):
    """At once, and without taking the memory that they would."""
    (tmp_path / "net.cfg").write_bytes(content)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SlimError, match=message):
        darknet.load(tmp_path / "net.cfg")
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


@pytest.mark.parametrize("seed", range(3))
def test_broken_bytes_are_refused_or_read(tmp_path, seed):
    """Whatever byte of either file is another: a detector comes out, or one message."""
    rng = np.random.default_rng(seed)
    path = written(tmp_path, SMALL)
    good = {file: file.read_bytes() for file in (path, path.with_suffix(".weights"))}
    refused = 0
    for _ in range(150):
        for file, content in good.items():
            broken = bytearray(content)
            for at in rng.integers(0, len(content) if file == path else 60, rng.integers(1, 4)):
                broken[at] = int(rng.integers(256))
            file.write_bytes(bytes(broken[: rng.integers(len(broken))] if rng.random() < 0.1 else broken))
        try:
            darknet.load(path)(torch.rand(1, 3, 32, 32))
        except SlimError as e:
            refused += 1
            assert str(e).isprintable() and len(str(e)) < MESSAGE + 2 * len(str(path)), str(e)
        except RuntimeError as e:  # it reads images of another kind now
            assert "channels" in str(e) or "size" in str(e), e
    assert refused > 50
