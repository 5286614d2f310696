"""Typed options of the methods, one module each. Knows no torch: control reads them."""
