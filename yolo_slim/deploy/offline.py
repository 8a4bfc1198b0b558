"""Ultralytics installs and downloads what it lacks while it runs, and OpenVINO reports each conversion: not here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from ultralytics.utils import checks, downloads

from yolo_slim.data.guarded import local

# Without the package that reports to Intel, OpenVINO and NNCF are silent. With it, each conversion forks this process,
# tells a server, and waits up to three seconds where there is no network.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@contextmanager
def offline() -> Iterator[None]:
    """Inside, what is missing raises an ImportError or a ConnectionError."""
    with (
        local(),
        patch.object(checks, "AUTOINSTALL", False),
        patch.object(downloads, "safe_download", _refused),
        patch.object(downloads, "get_github_assets", _refused),
    ):
        yield


def _refused(*args: object, **named: object) -> None:
    what = ", ".join(map(str, [*args, *named.values()]))
    raise ConnectionError(f"Ultralytics wants to download {what}")
