"""Modules with state: encoders, heads, momentum encoders, memories."""
