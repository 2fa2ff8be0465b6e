"""Models: how they are made, where their parts are, how they are called, what they cost."""
