"""Tumour: a heatmap of patches and its refinement, trained on your own slides (H2G-Net, Pedersen et al. 2022)."""
