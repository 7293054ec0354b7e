"""The entry point of ``autopeft`` and of ``python -m autopeft``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line, with threads that sleep while they wait.

    By default the threads of OpenMP spin, and on a machine with other work they spin away the very processor that
    they wait for: a training step then takes many times as long. The policy is read once, when torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from autopeft.cli.app import main as command_line

    command_line()


if __name__ == "__main__":
    # `python -m` looks for modules in the folder of the call first, where a file of the user's may be called
    # `queue.py`. What a dotted path names is looked for there after everything else, see `autopeft.kinds.lookup`.
    if not sys.flags.safe_path:
        del sys.path[0]
    main()
