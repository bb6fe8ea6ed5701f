"""A training run: its folder, its state on disk, what is watched and what is left; `lwcl.run` drives it."""
