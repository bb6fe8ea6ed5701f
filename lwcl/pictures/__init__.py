"""Pictures of a diagnosis, one kind a file: numbers and small images in, SVG text out."""
