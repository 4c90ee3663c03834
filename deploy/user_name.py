"""Who runs this process, for records and messages."""

from __future__ import annotations

import getpass
import os


def user_name() -> str:
    """Return the name of the user of this process, or its number where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return f"uid {os.getuid()}"
