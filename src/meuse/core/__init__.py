"""Nouns, state tables, ports, errors, money, ids and clock: pure Python.

Knows no library beyond the standard one, no file, no socket and no database.
"""
