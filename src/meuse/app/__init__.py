"""The composition root: the only package that names concrete parts.

One module per process, so that each process imports its own parts and no others:
`up` (supervisor), `control`, `ledger`, `worker`, `replica`, `spare`, `job`, `inspect`,
`check`. `commands` holds their command lines, `kinds` what control does for each kind of job,
`operate` what the CLI asks of a supervisor that runs.
"""
