"""What a plan comes to: the curve of a price, discounts, the calendar, the price of budgets. Pure.

The records are `core.plans`; rating puts the parts together.
"""
