"""What a gateway worker needs to count usage: the record and the journal.

Imports msgspec, the standard library and `core` only. Knows no database and no price.
"""
