"""Scores: pure functions on arrays."""

from __future__ import annotations

from napari_histoseg.metrics.instances import PQ, aji, f1, pixel_scores, pq, score_nuclei

__all__ = ["PQ", "aji", "f1", "pixel_scores", "pq", "score_nuclei"]
