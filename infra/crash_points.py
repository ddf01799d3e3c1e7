"""Named places where a test may kill this very process, as `kill -9` would, between two lines that write.

`METERLINE_CRASH_AT=sink.intent_written:3` kills at the third passing of that point. Unset, a point costs nothing.
"""

import os
import signal

_name, _, _count = os.environ.get("METERLINE_CRASH_AT", "").partition(":")
_left = int(_count or 1)


def crash_point(name: str) -> None:
    """Die here by SIGKILL if the environment says so."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
