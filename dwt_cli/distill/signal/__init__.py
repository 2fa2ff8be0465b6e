"""Signals that are asked for once and cached: a few tokens of each row, in few bytes."""
