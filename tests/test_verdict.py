"""Verdicts on made features, whose illness is known, for many seeds; and the rules one by one on given evidence."""

import collections
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from lwcl.diagnosis.evidence import centre_features, collect_metrics
from lwcl.diagnosis.thresholds import THRESHOLDS, VERDICT_ADVICE, threshold_table
from lwcl.diagnosis.verdict import CONFIDENCE_LEVELS, VERDICT_MEANINGS, Evidence, Verdict, clustering_verdict
from lwcl.losses import l2_normalise
from lwcl.metrics import clusters

IMAGES, CLASSES, WIDTH = 300, 6, 48
LABELS = torch.arange(IMAGES) % CLASSES


class Made:
    """Seeded features of images and of a view of each; noise is given by its length."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def noise(self, length: float, rows: int = IMAGES) -> Tensor:
        return length * torch.randn(rows, WIDTH, generator=self.generator) / WIDTH**0.5

    def views(self, rows: Tensor, length: float) -> tuple[Tensor, Tensor]:
        return rows, rows + self.noise(length)

    def collapsed(self) -> tuple[Tensor, Tensor]:
        """One point, and noise."""
        point = self.noise(1, rows=1)
        return point + self.noise(0.02), point + self.noise(0.02)

    def low_rank(self) -> tuple[Tensor, Tensor]:
        """Three directions."""
        rows = torch.randn(IMAGES, 3, generator=self.generator) @ self.noise(1, rows=3)
        return self.views(rows + self.noise(0.05), 0.1)

    def groups(self) -> tuple[Tensor, Tensor]:
        """Ten tight groups of each class, at random places."""
        centres = self.noise(1, rows=10 * CLASSES)
        group = torch.randint(10, (IMAGES,), generator=self.generator) * CLASSES + LABELS
        return self.views(centres[group] + self.noise(0.4), 0.15)

    def instances(self) -> tuple[Tensor, Tensor]:
        """Each image at a random place, its view near by."""
        return self.views(self.noise(1), 0.3)

    def classes(self) -> tuple[Tensor, Tensor]:
        """Each class around a place of its own."""
        return self.views(self.noise(1, rows=CLASSES)[LABELS] + self.noise(0.6), 0.3)

    def one_place_a_class(self) -> tuple[Tensor, Tensor]:
        """Classes so tight that the images in them are hardly told apart."""
        return self.views(self.noise(1, rows=CLASSES)[LABELS] + self.noise(0.1), 0.3)

    def noisy(self) -> tuple[Tensor, Tensor]:
        """Nothing that a view shares with its image."""
        return self.noise(1), self.noise(1)

    def untrained(self) -> tuple[Tensor, Tensor]:
        """Nearly one direction, as deep nets begin; the rest finds a tenth of the images, as theirs does."""
        point = 20 * self.noise(1, rows=1)
        original, view = self.views(self.noise(1), 4.0)
        return point + original, point + view


RIGHT = {
    "collapsed": "collapsed",
    "low_rank": "partly-collapsed",
    "groups": "over-clustered",
    "instances": "over-clustered",
    "classes": "healthy",
    "one_place_a_class": "healthy",
    "noisy": "under-trained",
    "untrained": "under-trained",
}


def words(kind: str, seeds: range, labelled: bool) -> collections.Counter[str]:
    """How often each word is said of features of a kind."""
    made = {seed: getattr(Made(seed), kind)() for seed in seeds}
    told = LABELS if labelled else None
    return collections.Counter(
        clustering_verdict(collect_metrics(*views, labels=told, seed=seed)).diagnosis for seed, views in made.items()
    )


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("kind", RIGHT)
def test_every_illness_gets_its_word(kind: str, labelled: bool) -> None:
    assert words(kind, range(4), labelled) == {RIGHT[kind]: 4}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RIGHT)
def test_every_illness_gets_its_word_in_twenty_of_twenty(kind: str) -> None:
    assert words(kind, range(100, 120), labelled=True) == {RIGHT[kind]: 20}


def test_a_second_view_and_a_sweep_that_is_there_change_little() -> None:
    original, view = Made(0).groups()
    alone = collect_metrics(original, view, labels=LABELS)
    rows = clusters.cluster_sweep(centre_features(original), LABELS, clusters.cluster_counts(IMAGES, CLASSES), 0)
    full = collect_metrics(original, view, view, LABELS, sweep=rows)
    assert full.instances == alone.instances
    assert full.fine_clusters == alone.fine_clusters == 75
    assert full.fine_purity == pytest.approx(alone.fine_purity, abs=0.1)
    assert clustering_verdict(full).diagnosis == clustering_verdict(alone).diagnosis


def test_lengths_and_a_shared_direction_do_not_count() -> None:
    original, view = Made(1).classes()
    lengths = torch.rand(IMAGES, 1, generator=torch.Generator().manual_seed(0)) * 9 + 1
    told = collect_metrics(lengths * original, 2 * view, labels=LABELS)
    assert told == collect_metrics(l2_normalise(original), l2_normalise(view), labels=LABELS)._replace(**close(told))
    assert float(centre_features(original + 5).mean(0).norm()) < 0.1


def close(told: Evidence) -> dict[str, float]:
    """The fields that rounding moves: all that are no counts."""
    return {name: value for name, value in told._asdict().items() if isinstance(value, float)}


def test_unknown_labels_are_no_labels() -> None:
    told = collect_metrics(*Made(0).instances(), labels=torch.full((IMAGES,), -1))
    assert (told.classes, told.same_class, told.cluster_accuracy) == (None, None, None)


TRAINED = Evidence(
    images=1000, std=0.8, effective_rank=200, participation=20, instances=0.5, classes=10,
    same_class=0.6, chance=0.1, cluster_accuracy=0.5, clusters_per_class=3, fine_purity=0.6, fine_clusters=160,
)  # fmt: skip
UNTRAINED = TRAINED._replace(
    std=0.2,
    effective_rank=100,
    participation=4,
    instances=0.07,
    same_class=0.16,
    cluster_accuracy=0.18,
    fine_purity=0.2,
)


def verdict(**changes: float) -> Verdict:
    """The verdict on trained evidence with these changes, compared with the untrained encoder's."""
    return clustering_verdict(TRAINED._replace(**changes), untrained=UNTRAINED)


def test_an_untrained_encoder_is_under_trained_and_nothing_worse() -> None:
    assert clustering_verdict(UNTRAINED).diagnosis == "under-trained"
    assert clustering_verdict(UNTRAINED, untrained=UNTRAINED).diagnosis == "under-trained"
    poor = UNTRAINED._replace(std=0.05, participation=1.5)
    assert clustering_verdict(poor, untrained=poor).diagnosis == "under-trained", "it began so"
    assert clustering_verdict(poor, untrained=UNTRAINED).diagnosis == "collapsed", "training brought it there"


def test_a_healthy_encoder_is_sure_of_it_beside_an_untrained_one() -> None:
    assert verdict()[0::3] == ("healthy", "high")
    assert clustering_verdict(TRAINED)[0::3] == ("healthy", "medium")
    assert verdict(same_class=0.47)[0::3] == ("healthy", "medium"), "near the limit"
    assert any("untrained: 16.0%" in reason for reason in verdict().reasons)


def test_neighbours_that_the_untrained_encoder_has_too_are_no_merit() -> None:
    rich = UNTRAINED._replace(same_class=0.58)
    assert clustering_verdict(TRAINED, untrained=rich).diagnosis == "under-trained"


def test_poor_neighbours_mean_over_clustering_once_the_pretext_is_solved() -> None:
    assert verdict(same_class=0.3, instances=0.9, fine_purity=0.5).diagnosis == "over-clustered"
    assert verdict(same_class=0.3, instances=0.3, fine_purity=0.5).diagnosis == "under-trained"


def test_many_pure_clusters_mean_over_clustering_even_if_neighbours_agree() -> None:
    assert verdict(fine_purity=0.95).diagnosis == "over-clustered"
    assert "160 clusters is 95.0%" in verdict(fine_purity=0.95).reasons[0]


def test_a_teacher_raises_what_is_asked_for() -> None:
    teacher = TRAINED._replace(same_class=0.98)
    enough, solved = TRAINED._replace(same_class=0.48), TRAINED._replace(same_class=0.48, instances=0.9)
    assert clustering_verdict(enough, untrained=UNTRAINED).diagnosis == "healthy"
    assert clustering_verdict(enough, untrained=UNTRAINED, teacher=teacher).diagnosis == "under-trained"
    assert clustering_verdict(solved, untrained=UNTRAINED, teacher=teacher).diagnosis == "over-clustered"


def test_few_directions_are_an_illness_unless_classes_are_found_in_them() -> None:
    assert verdict(participation=1.5, same_class=0.2, fine_purity=0.5).diagnosis == "partly-collapsed"
    assert verdict(participation=1.5).diagnosis == "healthy"


def test_without_labels_no_verdict_on_structure_is_sure() -> None:
    blind = TRAINED._replace(classes=None, same_class=None, chance=None, cluster_accuracy=None, fine_purity=None)
    solved = blind._replace(instances=0.9, view_cosine=0.9, neighbour_cosine=0.8, silhouette=0.1)
    assert clustering_verdict(solved)[0::3] == ("healthy", "low")
    assert clustering_verdict(solved._replace(neighbour_cosine=0.3))[0::3] == ("over-clustered", "low")
    assert clustering_verdict(solved._replace(fine_silhouette=0.7))[0::3] == ("over-clustered", "low")
    assert clustering_verdict(blind._replace(instances=0.2))[0::3] == ("under-trained", "medium")


def test_every_word_is_explained_and_every_illness_has_advice_with_a_source() -> None:
    assert set(VERDICT_MEANINGS) == set(VERDICT_ADVICE) == set(RIGHT.values())
    assert {one.diagnosis for one in THRESHOLDS.values()} <= set(VERDICT_MEANINGS)
    assert all(advice.source and advice.why for word in VERDICT_MEANINGS for advice in VERDICT_ADVICE[word])
    assert all(VERDICT_ADVICE[word] for word in VERDICT_MEANINGS if word != "healthy")
    assert verdict().confidence in CONFIDENCE_LEVELS
    assert ("collapsed", "embedding std", "0.1") in [row[:3] for row in threshold_table()]


def test_a_verdict_needs_no_torch() -> None:
    program = "import sys, lwcl.diagnosis.verdict; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
