"""Augmentations: parameters sampled for a whole batch, applied by tensors or by OpenCV."""
