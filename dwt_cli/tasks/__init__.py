"""What a model is trained for: each task turns a model and a batch into sums over targets."""
