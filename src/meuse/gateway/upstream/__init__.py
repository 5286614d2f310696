"""Language models that another server runs: any that speaks the OpenAI API, by its URL.

`asked` and `events` read and write its words, `wire` its connections, `relay` is one call from
admission to record, `short` and `awaited` are the two ways that a client waits for it.
"""
