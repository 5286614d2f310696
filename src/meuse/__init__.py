"""Meuse: models as a service on your own machines.

Knows only its public names. Importing it is cheap: the client, and with it the HTTP
library, is loaded on first use, because the supervisor imports this package too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meuse.core.version import __version__ as __version__

if TYPE_CHECKING:
    from meuse.client import Client as Client
    from meuse.core.errors import MeuseError as MeuseError

__all__ = ["Client", "MeuseError", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from meuse.client import Client

        return Client
    if name == "MeuseError":
        from meuse.core.errors import MeuseError

        return MeuseError
    raise AttributeError(f"module 'meuse' has no attribute {name!r}")
