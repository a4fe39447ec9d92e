"""The compiler of Systol: ONNX models in, accelerator programs out."""
