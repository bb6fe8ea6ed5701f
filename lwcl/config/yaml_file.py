"""Reading the settings file of `--config`: YAML, safely, with a sentence for every way it can be wrong."""

import re
from pathlib import Path
from typing import Any

import yaml

from lwcl.errors import UsageError

CONFIG_HINT = "A settings file has a line `name: value` for each setting; the config.yaml of a run is one."


class ConfigLoader(yaml.SafeLoader):
    """YAML without duplicate keys, and without YAML 1.1's surprises: `off` is text (`cache: off`), and so is a date."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; raises `ConstructorError` at a key that was there before."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands there twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def yaml_resolvers() -> dict[Any, list[tuple[str, "re.Pattern[str]"]]]:
    """YAML 1.1's guesses at types, without dates and with `true` and `false` alone as truth values (as in YAML 1.2)."""
    truth = "tag:yaml.org,2002:bool"
    kept = {
        first: [(tag, pattern) for tag, pattern in guesses if tag not in (truth, "tag:yaml.org,2002:timestamp")]
        for first, guesses in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "tTfF":
        kept.setdefault(first, []).append((truth, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")))
    return kept


ConfigLoader.yaml_implicit_resolvers = yaml_resolvers()


def read_config(path: str) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises `UsageError` when it is missing, is no YAML, names a setting twice or is no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        settings = yaml.load(text, ConfigLoader)  # noqa: S506  # Loader is a SafeLoader
    except OSError as error:
        what = f"Cannot read the settings file {path!r}: {error.strerror}."
        raise UsageError(what, remedy="Give --config a YAML file.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path!r} is no settings file.", " ".join(str(error).split()), CONFIG_HINT) from None
    if settings is not None and not isinstance(settings, dict):
        why = f"It holds {type(settings).__name__}, not settings by name."
        raise UsageError(f"{path!r} is no settings file.", why, CONFIG_HINT)
    return settings or {}
