"""Data: what an uploaded table holds, and its deterministic splits.

Knows pyarrow, Pillow and numpy; neither torch nor pandas, no store and no job. `formats`,
`options` and `split_spec` load none of them: control reads specs with these.
"""
