"""ONNX: the graph that runtimes have fast kernels for, written once and checked in ONNX Runtime."""
