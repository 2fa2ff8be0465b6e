"""Distillation from Weak Teacher: train a large masked language model with a smaller one's help."""
