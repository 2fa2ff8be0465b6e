"""What one sees of a run: the record, the display, the figures, a dashboard."""
