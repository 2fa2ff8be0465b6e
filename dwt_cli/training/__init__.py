"""The one loop of the project, its state, and its optimisers."""
