"""Classification of the teacher's clusters: ClusterFit (arXiv 1912.03330), the baseline CC of CompRess (2010.14713)."""

from lwcl.methods._torch import Encoder, F, Net, Tensor, kmeans, losses, memory, nets
from lwcl.methods.method import Batch, Loss, Method, method
from lwcl.settings import setting


@method("compress", "cluster-classify")
class ClusterClassify(Method):
    """Say in which of the teacher's clusters an image is; clusters are found once, before training."""

    views = 1
    taught = "features"
    prepares = True

    clusters: int | None = setting(
        None, "clusters of the teacher's features [settled from the number of images]", at_least=2, group="Method"
    )

    def head(self, width: int, taught: int = 0) -> tuple[int, ...]:
        """No projection head: the classifying layer ends with the training."""
        return ()

    def build(self, student: Encoder, taught: int = 0) -> Net:
        """The student, and the clusters with the layer that classifies them."""
        assert self.clusters is not None, "a rule settles it before a run"
        return nets.Net(student=student, clusters=memory.ClusterClassifier(self.clusters, student.width, taught))

    def prepare(self, net: Net, features: Tensor, seed: int) -> None:
        """Spherical k-means of the teacher's features (N, D) of all images; raises `UsageError` for too few images."""
        assert self.clusters is not None, "a rule settles it before a run"
        net.clusters.centroids.copy_(kmeans.kmeans(features, self.clusters, seed=seed).centroids)

    def loss(self, net: Net, batch: Batch, epoch: float) -> Loss:
        """Cross-entropy with the cluster that is nearest to the teacher's features of the same view.

        `agreement` is the share of images that the student puts into that cluster. The pairs are its features and the
        layer's weights for that cluster, which are the direction that features of the cluster should have.
        """
        features = net.student.features(batch.views[0])
        cluster = net.clusters.nearest(batch.taught[0])
        logits = net.clusters(features)
        total = F.cross_entropy(logits, cluster)
        agreement = (logits.argmax(1) == cluster).float().mean()
        directions = losses.l2_normalise(net.clusters.layer.weight.detach()[cluster])
        return Loss(
            total,
            {"loss": total.detach(), "agreement": agreement},
            (losses.l2_normalise(features.detach()), directions),
        )
