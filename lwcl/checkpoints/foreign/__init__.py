"""Third-party checkpoints: read safely, their layouts detected, their tensors renamed to timm's names."""
