"""Alerts: budgets that near their end, told by webhook (docs/budgets.md)."""
