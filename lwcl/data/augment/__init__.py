"""Augmentations: parameters drawn for a whole batch, applied by tensors or by OpenCV."""
