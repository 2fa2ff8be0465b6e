"""What must not change: identities, losses and, on one machine, every bit of a result."""
