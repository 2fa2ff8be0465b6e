"""Distillation from Weak Teacher: train a large language model with a smaller one's help."""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    # libgomp reads it as torch is loaded; by default threads that wait spin 15 times as long
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
