"""The teacher's signal for a batch."""
