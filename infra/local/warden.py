"""A small process beside the supervisor: when the supervisor dies, however it dies, the warden ends its children.

Its standard input is a pipe whose other end only the supervisor holds. The kernel closes that end with the
supervisor, so the warden needs no polling and works for kill -9 too. Run as `python -m infra.local.warden DATA_DIR`.
"""

import subprocess
import sys
from pathlib import Path

from infra.local import leftovers


def start(data_dir: Path) -> subprocess.Popen[bytes]:
    """Start the warden of this process. Closing its `stdin` makes it end what is left and exit."""
    return subprocess.Popen(
        [sys.executable, "-m", "infra.local.warden", str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal must not reach it
    )


def main() -> None:
    """Wait for the end of standard input, then end the children of the stack in the directory that is given."""
    sys.stdin.buffer.read()
    leftovers.end(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
