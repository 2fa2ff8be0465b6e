"""Distillation from Weak Teacher: train a large language model with a smaller one's help."""
