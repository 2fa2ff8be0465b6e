"""Teachers: their options, and the signal that each gives for a batch."""
