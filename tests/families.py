"""A small model of each family (module) of timm, and the side of the smallest images that it takes."""

FAMILIES = [("resnet18", 32)]
