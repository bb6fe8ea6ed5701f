"""Commands and their options, and how help and usage errors look; nothing here imports torch."""
