"""Generated from inference.proto by tools/generate_wire.py."""
