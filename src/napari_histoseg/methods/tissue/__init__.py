"""Tissue: unsupervised clustering of slides with deep clustering and superpixels."""
