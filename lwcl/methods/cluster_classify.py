"""Classification of the teacher's clusters: ClusterFit (arXiv 1912.03330), the baseline CC of CompRess (2010.14713)."""

from typing import Protocol

from lwcl.methods.lazy_imports import ClusterClassifier, Encoder, F, Net, Tensor, kmeans, losses, memory, nets
from lwcl.methods.method import Batch, Loss, Method, ViewSpec, method
from lwcl.settings import Auto, setting


class ClusterNet(Protocol):
    """The modules of cluster classification."""

    student: Encoder
    clusters: ClusterClassifier


@method("compress", "cluster-classify")
class ClusterClassify(Method):
    """Classify each image into one of the teacher's clusters, which k-means computes once, before training."""

    teacher_space = "features"
    needs_teacher_features = True

    clusters: Auto[int] = setting(
        None, "k-means clusters of the teacher's features [auto: from the number of images]", at_least=2, group="Method"
    )

    def view_groups(self) -> tuple[ViewSpec, ...]:
        """One view, seen by student and teacher."""
        return (ViewSpec(),)

    def head(self, width: int, teacher_dim: int = 0) -> tuple[int, ...]:
        """No projection head: the classification layer is dropped after training."""
        return ()

    def build(self, student: Encoder, teacher_dim: int = 0) -> Net:
        """The student, and the clusters with their classification layer."""
        return nets.Net(student=student, clusters=memory.ClusterClassifier(self.clusters, student.width, teacher_dim))

    def initialise(self, net: ClusterNet, features: Tensor, seed: int) -> None:
        """Spherical k-means of the teacher's features (N, D) of all images; raises `UsageError` for too few images."""
        net.clusters.centroids.copy_(kmeans.kmeans(features, self.clusters, seed=seed).centroids)

    def loss(self, net: ClusterNet, batch: Batch, epoch: float) -> Loss:
        """Cross-entropy with the cluster nearest to the teacher's features of the same view.

        `agreement` is the classification accuracy. The pairs are the student's features and the weights of that
        cluster in the classification layer: the direction that features of the cluster should have.
        """
        features = net.student.features(batch.views[0])
        cluster = net.clusters.nearest(batch.teacher_output[0])
        logits = net.clusters(features)
        total = F.cross_entropy(logits, cluster)
        agreement = (logits.argmax(1) == cluster).float().mean()
        directions = losses.l2_normalise(net.clusters.layer.weight.detach()[cluster])
        pairs = losses.l2_normalise(features.detach()), directions
        return Loss(total, {"loss": total.detach(), "agreement": agreement}, pairs)
