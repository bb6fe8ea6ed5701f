"""The settings of a run: options, recipes, augmentations, and the plan with the origin of each. Free of torch."""
