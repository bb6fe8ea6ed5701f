"""lwcl trains small vision encoders from images without labels."""

__version__ = "0.1.0"
