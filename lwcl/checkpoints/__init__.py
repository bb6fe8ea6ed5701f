"""Files with weights: encoders, the state of a training run."""
