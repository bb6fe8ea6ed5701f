"""Where images come from: folders, lists, archives, torchvision data sets."""
