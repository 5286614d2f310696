"""Budgets as billing sees them: which hold, in which money, and what they have counted.

Hosts count at admission (`meter.limits`); here is what they are told, and how what they counted
is computed again from the ledger's sums.
"""
