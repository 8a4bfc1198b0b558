"""What a checkpoint says that its detector was trained with, as today's Ultralytics takes it."""

from __future__ import annotations

from typing import Any

from ultralytics.cfg import check_cfg
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_slim.errors import SlimError


def arguments_of(given: dict[str, Any]) -> dict[str, Any]:
    """Ultralytics' arguments as a training had them; today's default for a number that is out of today's bounds.

    Raises:
        SlimError: an argument that is none.
    """
    found = dict(DEFAULT_CFG_DICT)
    for key, value in given.items():
        if key not in found:
            continue
        one = {key: value}
        try:
            check_cfg(one, hard=False)  # in place: "0.1" becomes a number
        except (TypeError, ValueError) as e:
            if value is not None and not isinstance(value, (bool, int, float)):
                raise SlimError(f"has a train_args.{key} that is none: {' '.join(str(e).split())[:200]}") from e
        else:
            found |= one
    return found
