"""Encoders that others trained: their files read safely, their layouts recognised, their tensors given timm's names."""
