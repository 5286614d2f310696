"""Take a file out of a folder that foreign code has written to.

It may have left a link to one of our secrets, a pipe that blocks, a file without end.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class FileRefusedError(Exception):
    """What lies there is no regular file, or too large; the text says which."""


def take(folder: Path, name: str, limit: int) -> bytes | None:
    """The bytes of the regular file `name` right in `folder`; None when there is none.

    Raises `FileRefusedError`; links are not followed.
    """
    if "/" in name or name in ("", ".", ".."):
        raise FileRefusedError(f"{name!r} is not the name of a file")
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=place)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileRefusedError(f"{name} cannot be taken: {error.strerror}") from None
    finally:
        os.close(place)
    try:
        what = os.fstat(fd)
        if not stat.S_ISREG(what.st_mode) or what.st_nlink != 1:
            raise FileRefusedError(f"{name} is not a regular file of its own")
        if what.st_size > limit:
            raise FileRefusedError(f"{name} has {what.st_size} bytes, more than {limit}")
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(limit)
    finally:
        os.close(fd)
