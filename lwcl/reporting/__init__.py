"""Console output, reports in HTML and JSON, plots."""
