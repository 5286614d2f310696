"""Training: specs, recipes, the loop, checkpoints and export to ONNX.

`spec` knows neither torch nor numpy, because the control process validates with it; every
other module runs in job processes only.
"""
