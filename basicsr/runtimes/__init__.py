"""Networks outside of PyTorch: traced, written for ONNX Runtime and ExecuTorch, and compared with PyTorch."""
