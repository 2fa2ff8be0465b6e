"""Signals that are asked for once and kept: a few tokens of each row, in few bytes."""
