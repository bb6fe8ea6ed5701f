"""What the curves over the number of clusters k show: title, label of the axis, and how to read it."""

CURVE_CAPTIONS = {
    "clusters_per_class": (
        "Clusters that hold a class",
        "clusters a class",
        "How many of k clusters hold nine tenths of a class, on average. 1 is best at k = number of classes. The "
        "higher a curve stands, the more clusters a class is torn into.",
    ),
    "nmi": (
        "Agreement of clusters and classes",
        "NMI",
        "Normalised mutual information of clusters and classes: 1 the same, 0 nothing in common. It grows with k by "
        "chance, so look at how far a curve stands above that of an untrained encoder.",
    ),
    "held_out_purity": (
        "Purity of clusters",
        "purity, held out",
        "How often the other images of a cluster name an image's class. Unlike plain purity, small clusters gain "
        "nothing by chance.",
    ),
    "silhouette": (
        "How far apart clusters are",
        "silhouette",
        "1: clusters are tight and far apart; 0: they touch. A peak says how many groups the features have.",
    ),
    "stability": (
        "Whether clusters are really there",
        "agreement",
        "How alike k-means clusters from three seeds are (adjusted Rand index): 1 the same, 0 by chance.",
    ),
}
