"""The contingency matrix of clusters and classes: Hungarian matching, purity, fragmentation of classes.

Cluster alignment is CompRess's (arXiv 2010.14713), with Hungarian matching. k clusters, C classes; labels below 0 are
unknown and left out.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

COVERED_SHARE = 0.9  # of a class or cluster, that the largest parts must hold together


def contingency_matrix(labels: Tensor, classes: Tensor, k: int | None = None, count: int | None = None) -> Tensor:
    """Counts of images by cluster and class, int64 (k, C), from labels and classes (N,); k, C as seen or given."""
    known = classes >= 0
    k, count = k or int(labels.max()) + 1, count or int(classes.max()) + 1
    return (labels[known] * count + classes[known]).bincount(minlength=k * count).reshape(k, count)


def align_clusters(counts: Tensor, *, cost: str = "precision") -> Tensor:
    """The class of each cluster (k,), -1 for none, by Hungarian matching of counts (k, C), one cluster per class.

    `precision` maximises the sum of the clusters' precisions, as CompRess does: a tiny pure cluster can take a class
    from a large one. `count` maximises the number of matched images.
    """
    gain = counts.double()
    if cost == "precision":
        gain = gain / gain.sum(1, keepdim=True).clamp_min(1)
    clusters, classes = linear_sum_assignment(-gain.cpu().numpy())
    mapping = torch.full((len(counts),), -1, device=counts.device)
    mapping[torch.as_tensor(clusters)] = torch.as_tensor(classes, device=counts.device)
    return mapping


def aligned_accuracy(counts: Tensor, mapping: Tensor) -> float:
    """Accuracy of counts (k, C) with each cluster mapped to a class (k,); nan without images."""
    matched = counts.gather(1, mapping.clamp_min(0)[:, None])[:, 0] * (mapping >= 0)
    return float(matched.sum() / counts.sum())


def cluster_purity(counts: Tensor) -> float:
    """Share of images in counts (k, C) that belong to the majority class of their cluster; grows with k by chance."""
    return float(counts.amax(1).sum() / counts.sum())


def held_out_purity(counts: Tensor) -> float:
    """Leave-one-out purity: the majority of the other images in the cluster predicts an image's class.

    So small clusters gain nothing by chance. A tie counts by its share, so an image alone counts 1 / C. Only the
    largest class of a cluster can be right: n of its images against m of the second, which must stay below n - 1.
    """
    if counts.shape[1] < 2:
        return 1.0
    first, second = counts.topk(2, dim=1).values.unbind(1)
    ties = (counts == second[:, None]).sum(1) + 1
    right = first * (first - 1 > second) + (first / ties) * (first - 1 == second)
    return float(right.sum() / counts.sum())


def clusters_per_class(counts: Tensor, share: float = COVERED_SHARE) -> float:
    """Number of clusters that hold `share` of a class, averaged over the classes of counts (k, C)."""
    return entries_to_cover(counts.T, share)


def classes_per_cluster(counts: Tensor, share: float = COVERED_SHARE) -> float:
    """Number of classes that hold `share` of a cluster, averaged over the clusters of counts (k, C)."""
    return entries_to_cover(counts, share)


def entries_to_cover(counts: Tensor, share: float) -> float:
    """Number of a row's largest entries that hold `share` of its sum, averaged over non-empty rows."""
    counts = counts[counts.sum(1) > 0].double()
    held = counts.sort(1, descending=True).values.cumsum(1)
    enough = share * counts.sum(1, keepdim=True) - 1e-9
    return float(((held < enough).sum(1) + 1).double().mean())
