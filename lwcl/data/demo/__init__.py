"""The built-in data sets: drawn textures and scikit-learn's digits."""
