"""Kinds of nuclei, learned without labels (paper 2.3, 3.3)."""
