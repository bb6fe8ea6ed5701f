"""Faster convolutions and matrix products on a CPU, each with the measurement that it stands for."""
