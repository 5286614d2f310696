"""The data plane's edge: admit → route → infer → meter.

A worker process is one event loop with everything it needs in memory. Nothing in here may
import, directly or not, sqlalchemy, fastapi, pydantic, torch or an engine.
"""
