"""From journaled usage to invoices: ingest, rating, invoices, the ledger's own server.

Knows the rules of money; no SQL, no file format and no sibling. The journal and the store
are given by the composition root and described in `ports`.
"""
