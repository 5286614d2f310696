"""The methods themselves: plain functions from a model to a smaller one.

Imported in job children alone.
"""
