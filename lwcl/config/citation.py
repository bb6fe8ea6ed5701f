"""Published recipes: settings, each with its source."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lwcl.settings import Layer, Origin, OriginKind


class CitedValue(NamedTuple):
    """A number and its source."""

    value: Any
    source: str


@dataclass(frozen=True)
class PublishedRecipe:
    """A published recipe: its method, its settings with their sources, and those of single architectures."""

    about: str
    method: str
    settings: dict[str, CitedValue]
    archs: dict[str, dict[str, CitedValue]] = field(default_factory=dict)
    for_small_data: bool = False  # whether its numbers are those of small data sets, so that none is overridden there

    def layer(self, name: str, arch: str) -> Layer:
        """The settings for an architecture as a layer of precedence; the architecture's own come first."""
        cited = self.settings | self.archs.get(arch, {})
        return Origin(OriginKind.RECIPE, name), {key: entry.value for key, entry in cited.items()}
