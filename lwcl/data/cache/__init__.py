"""Decoded images cached in RAM or on disk."""
