"""Parsing the command line: commands, their options, help, and how usage errors look. Nothing here imports torch."""
