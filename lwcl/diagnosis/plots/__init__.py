"""The pictures of a diagnosis."""
