"""Trained models as one file of ONNX, and their predictions by onnxruntime."""
