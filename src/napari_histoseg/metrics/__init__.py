"""Scores: pure functions on arrays."""

from __future__ import annotations

from napari_histoseg.metrics.cells import Matching, adjusted_rand, agreement, score_cells
from napari_histoseg.metrics.instances import PQ, aji, f1, pixel_scores, pq, score_nuclei
from napari_histoseg.metrics.joint import Counts, challenge_score, score_joint
from napari_histoseg.metrics.lsr import score_lsr
from napari_histoseg.metrics.stain import (
    euclidean,
    find_glass,
    glass_change,
    hellinger,
    hematoxylin_similarity,
    histogram_correlation,
    score_stain,
    seam,
)
from napari_histoseg.metrics.tissue import score_tissue
from napari_histoseg.metrics.tumour import score_tumour

__all__ = [
    "PQ",
    "Counts",
    "Matching",
    "adjusted_rand",
    "agreement",
    "aji",
    "challenge_score",
    "euclidean",
    "f1",
    "find_glass",
    "glass_change",
    "hellinger",
    "hematoxylin_similarity",
    "histogram_correlation",
    "pixel_scores",
    "pq",
    "score_cells",
    "score_joint",
    "score_lsr",
    "score_nuclei",
    "score_stain",
    "score_tissue",
    "score_tumour",
    "seam",
]
