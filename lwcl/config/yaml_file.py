"""Reads the settings file of `--config`: YAML, safely, with a clear error for every way it can be wrong."""

import re
from pathlib import Path
from typing import Any

import yaml

from lwcl.errors import UsageError
from lwcl.settings import expand_home

CONFIG_HINT = "A settings file has one line `name: value` per setting, like the config.yaml of a run."


class ConfigLoader(yaml.SafeLoader):
    """YAML without duplicate keys, empty values and surprises of YAML 1.1: `off` and dates are text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; raises `ConstructorError` at a key that was there before, or has nothing behind it."""
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is given twice", key.start_mark)
            if isinstance(value, yaml.ScalarNode) and value.value in ("", "~") and value.style is None:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} has no value", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def yaml_resolvers() -> dict[Any, list[tuple[str, "re.Pattern[str]"]]]:
    """YAML 1.1's implicit types, without dates, and with `true` and `false` as the only booleans (as in YAML 1.2)."""
    boolean = "tag:yaml.org,2002:bool"
    resolvers = {
        first: [(tag, pattern) for tag, pattern in guesses if tag not in (boolean, "tag:yaml.org,2002:timestamp")]
        for first, guesses in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "tTfF":
        resolvers.setdefault(first, []).append((boolean, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")))
    return resolvers


ConfigLoader.yaml_implicit_resolvers = yaml_resolvers()


def read_config(path: str) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises `UsageError` when it is missing, is not YAML, names a setting twice or without a value, or is not a mapping.
    """
    try:
        text = Path(expand_home(path)).read_text(encoding="utf-8")
        settings = yaml.load(text, ConfigLoader)  # noqa: S506  # ConfigLoader is a SafeLoader
    except OSError as error:
        what = f"Cannot read the settings file {path!r}: {error.strerror}."
        raise UsageError(what, remedy="Give --config a YAML file.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split()).replace(' in "<unicode string>"', "")
        raise UsageError(f"{path!r} is not a settings file.", why, CONFIG_HINT) from None
    if settings is not None and not isinstance(settings, dict):
        why = f"It holds {type(settings).__name__}, not settings by name."
        raise UsageError(f"{path!r} is not a settings file.", why, CONFIG_HINT)
    return settings or {}
