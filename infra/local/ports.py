"""Loopback ports for our servers, outside the range from which the system takes ports of outgoing connections."""

import random
import socket

LOOPBACK = "127.0.0.1"
LOWEST_PORT = 20_000
HIGHEST_PORT = 32_000  # Linux hands out 32768 and above by itself: a client's socket could sit on our port
MAX_TRIES = 1_000


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose(taken: set[int]) -> int:
    """A free loopback port that is not in `taken`. Random, so that two stacks that start at once don't meet.

    Raises OSError when none is found.
    """
    generator = random.SystemRandom()
    for _ in range(MAX_TRIES):
        port = generator.randint(LOWEST_PORT, HIGHEST_PORT)
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port on {LOOPBACK} between {LOWEST_PORT} and {HIGHEST_PORT}")


def choose_from(first: int) -> int:
    """The first free loopback port from `first` upwards, within `MAX_TRIES`. Raises OSError when none is found."""
    for port in range(first, min(first + MAX_TRIES, 65_536)):
        if is_free(port):
            return port
    raise OSError(f"no free port on {LOOPBACK} from {first} upwards")
