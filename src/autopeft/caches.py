"""Where this package keeps what can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$AUTOPEFT_HOME``, else ``$XDG_CACHE_HOME/autopeft``, else ``~/.cache/autopeft``; it need not exist."""
    own = os.environ.get("AUTOPEFT_HOME")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autopeft"
