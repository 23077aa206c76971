"""Results: label and heatmap pyramids, object tables, the run record; exports and corrections."""

from napari_histoseg.results.export import export
from napari_histoseg.results.record import ClassRecord, RunRecord, SlideRecord, WeightsRecord
from napari_histoseg.results.result import Result, open_result
from napari_histoseg.results.store import ResultStore

__all__ = [
    "ClassRecord",
    "Result",
    "ResultStore",
    "RunRecord",
    "SlideRecord",
    "WeightsRecord",
    "export",
    "open_result",
]
