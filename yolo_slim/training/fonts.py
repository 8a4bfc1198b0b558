"""Ultralytics' plots with fonts of this machine: the stock look for one downloads it."""

from __future__ import annotations

from functools import cache

from matplotlib import font_manager
from ultralytics.utils import USER_CONFIG_DIR, plotting


@cache
def local_font(font: str = "Arial.ttf") -> str:
    """The file of a font: of this name where there is one, else of the one that comes with matplotlib.

    Args:
        font: its file's name.
    """
    if (USER_CONFIG_DIR / font).is_file():
        return str(USER_CONFIG_DIR / font)
    found = (each.fname for each in font_manager.fontManager.ttflist if each.fname.endswith(font))
    return next(found, None) or font_manager.findfont("DejaVu Sans")


def keep_local() -> None:
    """From here on no plot fetches a font."""
    vars(plotting)["check_font"] = local_font
