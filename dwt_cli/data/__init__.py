"""Text sources, and the text that is held out of training."""
