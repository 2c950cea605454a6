"""One-line replacements for other projects' functions."""
