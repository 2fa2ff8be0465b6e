"""One run: a list of stages, each from options to an artifact found by its fingerprint."""
