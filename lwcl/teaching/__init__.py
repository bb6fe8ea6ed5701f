"""Teachers: frozen encoders that answer, now or from a cache."""
