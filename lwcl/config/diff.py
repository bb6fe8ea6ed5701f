"""Differences between the settings of two runs."""

import itertools
import json
from collections.abc import Mapping
from typing import Any


def settings_diff(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: frozenset[str] = frozenset()
) -> dict[str, tuple[str, str]]:
    """The settings that differ, as JSON: `name: (old, new)`, `absent` where one lacks it. 20 and 20.0 are the same."""
    before, after = json_compatible(old), json_compatible(new)
    names = [name for name in dict.fromkeys(itertools.chain(before, after)) if name not in ignore]

    def written(side: Mapping[str, Any], name: str) -> str:
        return json.dumps(side[name]) if name in side else "absent"

    differing = (n for n in names if n not in before or n not in after or before[n] != after[n])
    return {name: (written(before, name), written(after, name)) for name in differing}


def json_compatible(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON and YAML represent them: tuples as lists, paths as text."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return plain
