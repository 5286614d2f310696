"""Deployments: what is wanted, what runs, and the steps between.

`plan` decides and touches nothing; `reconciler` acts; `publisher` tells the workers.
"""
