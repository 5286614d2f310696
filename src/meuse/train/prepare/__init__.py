"""Preparation: from raw rows to the one array that a network takes, as data.

Fitted on the training split alone, kept as JSON, and exported inside the model's graph. There
is one implementation: what training applies is the graph that serving runs.
"""
