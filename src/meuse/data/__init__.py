"""Data: what an uploaded table holds, and its deterministic splits.

Knows csv, NPZ and numpy; neither torch nor pandas, no store and no job.
"""
