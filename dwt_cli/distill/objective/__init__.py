"""Objectives: the hard label, the teacher's distribution, features of its layers."""
