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
    written = {
        name: tuple(json.dumps(side[name]) if name in side else "absent" for side in (before, after)) for name in names
    }
    equal = {name for name in names if name in before and name in after and before[name] == after[name]}
    return {name: (pair[0], pair[1]) for name, pair in written.items() if pair[0] != pair[1] and name not in equal}


def json_compatible(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON and YAML represent them: tuples as lists, paths as text."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return plain
