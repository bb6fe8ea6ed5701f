"""The columns of a diagnosis's tables: where each number comes from, and what the tables' measures mean."""

from typing import NamedTuple


class Column(NamedTuple):
    """A column of a table: its title, where its number comes from, and whether it is a share, shown in percent."""

    title: str
    part: str  # a field of `Numbers`
    name: str
    share: bool = False
    place: int | None = None  # in a list of numbers


OVERVIEW_COLUMNS = (
    Column("d-sd, %", "pairs", "d_sd", True, 0),
    Column("Alignment", "pairs", "alignment_d_sd"),
    Column("Intra-class", "pairs", "intra_d"),
    Column("Uniformity", "pairs", "uniformity_d"),
    Column("Rank", "spectrum", "centred_rank"),
)
SAME_CLASS_COLUMN = Column("Neighbours, %", "neighbourhood", "same_class", True)
INSTANCE_COLUMNS = (
    Column("d-sd top-1", "pairs", "d_sd", True, 0),
    Column("d-sd top-5", "pairs", "d_sd", True, 4),
    Column("sd-sd top-1", "pairs", "sd_sd", True, 0),
    Column("sd-sd top-5", "pairs", "sd_sd", True, 4),
)
DISTANCE_COLUMNS = (
    Column("Alignment D-SD", "pairs", "alignment_d_sd"),
    Column("SD-SD", "pairs", "alignment_sd_sd"),
    Column("Intra-class D", "pairs", "intra_d"),
    Column("SD", "pairs", "intra_sd"),
    Column("Uniformity D", "pairs", "uniformity_d"),
    Column("SD", "pairs", "uniformity_sd"),
    Column("D, all pairs", "pairs", "exact_uniformity_d"),
)
SPECTRUM_COLUMNS = (
    Column("Rank", "spectrum", "rank"),
    Column("less mean", "spectrum", "centred_rank"),
    Column("Participation", "spectrum", "participation"),
    Column("Spread", "spectrum", "spread"),
    Column("Mean cosine", "spectrum", "mean_cosine"),
    Column("Norms vary", "spectrum", "norm_variation"),
    Column("Dead, %", "spectrum", "dead", True),
)
NEIGHBOUR_COLUMNS = (
    Column("Of the class, %", "neighbourhood", "same_class", True),
    Column("by chance, %", "neighbourhood", "chance", True),
    Column("Hubness", "neighbourhood", "hubness"),
    Column("Orphans, %", "neighbourhood", "orphans", True),
    Column("Copies, %", "neighbourhood", "duplicates", True),
)
HELD_OUT_COLUMNS = (
    Column("Images", "held_out", "images"),
    Column("d-sd, %", "held_out", "d_sd", True, 0),
    Column("sd-sd, %", "held_out", "sd_sd", True, 0),
    Column("Alignment", "held_out", "alignment_d_sd"),
    Column("Intra-class", "held_out", "intra_d"),
    Column("Cluster alignment, %", "held_out", "cluster_alignment", True),
    Column("best-NN, %", "held_out", "best_nn", True),
    Column("k", "held_out", "best_nn_k"),
)
COMPARISON_TABLES = {
    "Telling instances apart, %": INSTANCE_COLUMNS,
    "Near and far": DISTANCE_COLUMNS,
    "Directions": SPECTRUM_COLUMNS,
    "Ten nearest neighbours": NEIGHBOUR_COLUMNS,
    "Held-out images": HELD_OUT_COLUMNS,
}
TABLE_NOTES = {
    "overview": (
        "d-sd: percent of images that find their own view among all other images. Alignment, Intra-class: mean squared "
        "distance of an image and its view, of two images of a class. NMI, Clusters/class: for as many clusters as "
        "classes. Neighbours: percent of the ten nearest that are of the class."
    ),
    "Telling instances apart, %": (
        "How often an image finds its own view among all other images (d-sd), and a view the other view (sd-sd)."
    ),
    "Near and far": (
        "Mean squared distance, 0 to 4: of an image and its view (alignment), of two images of a class (intra-class). "
        "Uniformity: -4 spread evenly, 0 one point. D: the images, SD: views of them. Views that are near while the "
        "images of a class are as far as any are what arXiv 2107.14762 calls over-clustering."
    ),
    "Directions": (
        "Rank: how many directions the features use, as they are and less their mean. Spread: 1 fills the sphere, 0 is "
        "one point. Dead: dimensions that never vary."
    ),
    "Ten nearest neighbours": (
        "How many of them share the class, and would if drawn blindly. Hubness: above 2, few images are everyone's "
        "neighbours. Orphans are nobody's. Copies have a neighbour of cosine 0.95 or more."
    ),
    "Held-out images": (
        "On images that clusters were not made of. Cluster alignment: clusters and their classes are made of the other "
        "images, as CompRess does (arXiv 2010.14713). best-NN: the best majority vote of 1 to 101 neighbours."
    ),
    "clusters": (
        "k-means of the features less their mean, of length 1; the best of three runs, whose agreement is stability. "
        "Aligned: each cluster named by another class, by precision or by count. Purity, held out: by the majority of "
        "its other images."
    ),
    "evidence": (
        "As the rules take them: on features less their mean, of length 1, but for spread and mean cosine. Fine: of "
        "many clusters, about 16 times as many as classes."
    ),
    "overlap": "Mean squared distance of an image's two views, by how much of the image both crops hold (IoU).",
}
CLUSTER_COLUMNS = {
    "k": ("k", False), "silhouette": ("Silhouette", False), "stability": ("Stability", False),
    "alignment": ("Aligned, %", True), "count_alignment": ("count, %", True), "nmi": ("NMI", False),
    "ari": ("ARI", False), "purity": ("Purity, %", True), "held_out_purity": ("held out, %", True),
    "clusters_per_class": ("Clusters/class", False), "classes_per_cluster": ("Classes/cluster", False),
}  # fmt: skip
