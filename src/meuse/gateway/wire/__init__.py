"""Generated from *.proto by tools/generate_wire.py."""
