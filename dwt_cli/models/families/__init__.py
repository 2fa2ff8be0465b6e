"""Families of models: a file each, with its parts, what its axes mean, and how it is made."""
