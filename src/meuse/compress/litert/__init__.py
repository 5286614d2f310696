"""ONNX graphs as LiteRT files: `outside` calls the program `inside` in TensorFlow's toolchain."""
