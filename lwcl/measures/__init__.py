"""Evaluations that train nothing, one a file: pure functions of features and labels."""
