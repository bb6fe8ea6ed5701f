"""A training run: put together, watched, saved, finished."""
