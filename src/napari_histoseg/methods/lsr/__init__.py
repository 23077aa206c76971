"""Label super-resolution: label blocks "none, some, mostly", and learn outlines whose shares agree (Zhao et al. 2020)."""
