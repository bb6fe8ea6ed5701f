"""Third-party checkpoints: read safely, recognised, renamed to timm's names."""
