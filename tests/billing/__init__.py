"""A package, so that `benchmarks/billing.py` does not come before it."""
