"""Tumour networks in other programs: written as ONNX with a pipeline for FAST, and read from ONNX that others wrote."""
