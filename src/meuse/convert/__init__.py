"""Models of other formats become ONNX.

What such files hold is code, or can be: they are read by `inside`, which runs in a sandbox
and nowhere else. `outside` starts it and believes none of what it says: the ONNX file is
loaded as any upload is, and its answers are compared with those that the original gave.
"""
