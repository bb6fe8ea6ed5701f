"""Everything that a diagnosis measures on an encoder, as plain numbers; importing it needs no torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lwcl.diagnosis.verdict import Evidence, Verdict

if TYPE_CHECKING:
    from lwcl.metrics.clusters import ClusterRow
    from lwcl.metrics.neighbourhood import NeighbourhoodMetrics
    from lwcl.metrics.pairs import PairMetrics
    from lwcl.metrics.spectrum import Spectrum


class OverlapRow(NamedTuple):
    """Alignment of the two views of an image, for crops whose IoU lies in a band."""

    band: str
    pairs: int
    alignment: float | None  # None without pairs


class HeldOutMetrics(NamedTuple):
    """Metrics of held-out images; the last three need labels."""

    images: int
    d_sd: tuple[float, ...]
    sd_sd: tuple[float, ...] | None
    alignment_d_sd: float
    intra_d: float | None
    uniformity_d: float
    cluster_alignment: float | None = None
    best_nn: float | None = None
    best_nn_k: int | None = None


class EncoderMetrics(NamedTuple):
    """All metrics of an encoder."""

    classes: int | None  # None without labels
    evidence: Evidence
    pairs: "PairMetrics"
    clusters: "Sequence[ClusterRow]"  # a row for each k
    spectrum: "Spectrum"
    neighbourhood: "NeighbourhoodMetrics"
    overlap: Sequence[OverlapRow]
    held_out: HeldOutMetrics | None = None


class EncoderFinding(NamedTuple):
    """Metrics and verdict of an encoder; an untrained one is a baseline for others and has no verdict."""

    name: str
    arch: str
    role: str  # encoder, teacher or untrained
    views: str  # which random views it was examined in
    metrics: EncoderMetrics
    verdict: Verdict | None
