"""Evaluation: figures of a model's outputs, and whether two models differ.

Knows numpy arrays only: no model, no data file, no job.
"""
