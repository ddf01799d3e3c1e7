"""What the streams of one process share."""

from dataclasses import dataclass


@dataclass(slots=True)
class Streams:
    """How many run, and whether they are to end."""

    running: int = 0
    stopping: bool = False
