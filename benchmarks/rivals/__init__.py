"""What others would write for the same training, frozen: changed only where one stops running."""
