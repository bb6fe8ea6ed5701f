"""Training-free metrics of features: pure functions."""
