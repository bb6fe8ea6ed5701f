"""kNN and linear evaluation of encoders."""
