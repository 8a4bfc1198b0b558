"""YAML of unknown origin: plain values, each key once, no deeper and no longer than can be read at once."""

from __future__ import annotations

from typing import Any

import yaml

from yolo_slim.errors import SlimError

LONGEST = 256 << 10
"""Characters; a detector's description has 5,000."""
MOST = 50_000
"""Values, with each alias counted as what it stands for."""
DEEPEST = 30


def values_in(text: str) -> Any:
    """The values in a text.

    Raises:
        SlimError: it is too long, is no YAML, says a key twice, or grows without end by its aliases.
    """
    if len(text) > LONGEST:
        raise SlimError(f"has {len(text):,} characters of YAML: expected a few thousand")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            _count(node)
            return loader.construct_document(node) if node else None
        finally:
            loader.dispose()
    except SlimError:
        raise
    except RecursionError as e:
        raise SlimError("holds values in values without end") from e
    except Exception as e:  # dates that are none, integers of thousands of digits, tags
        raise SlimError(f"is no YAML: {' '.join(str(e).split())[:300]}") from e


def _count(top: yaml.Node | None) -> None:
    met, waiting = 0, [(top, 0)] if top else []
    while waiting:
        node, depth = waiting.pop()
        met += 1
        if met > MOST or depth > DEEPEST:
            raise SlimError("holds values in values without end: too deep, too many, or aliases of aliases")
        if isinstance(node, yaml.MappingNode):
            keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len({*keys}) < len(keys):
                twice = next(key for key in keys if keys.count(key) > 1)[1]
                raise SlimError(f"says {twice} twice, at line {node.start_mark.line + 1}: only one can be meant")
            waiting += [(inner, depth + 1) for pair in node.value for inner in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(inner, depth + 1) for inner in node.value]
