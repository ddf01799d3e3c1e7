"""`python -m infra.local`: the stack alone, in the foreground, for tests and for work on one service.

Prints one line of JSON with the settings' addresses when everything answers; stops on SIGINT, SIGTERM or SIGHUP, or
when nobody holds a shared lock on the file named by `--while-locked` any more.
"""

import argparse
import fcntl
import json
import shutil
import time
from pathlib import Path

from rich.console import Console

from infra.local.errors import StackError
from infra.local.signals import leave, until_stopped
from infra.local.stack import running_stack
from infra.settings import Settings

LOCK_PAUSE_SECONDS = 1.0


def main() -> int:
    """Exit status 0 after a stop that was asked for, 1 when the stack can't start."""
    arguments = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__)
    arguments.add_argument("--data-dir", type=Path)
    arguments.add_argument("--while-locked", type=Path, metavar="FILE")
    arguments.add_argument("--ephemeral", action="store_true", help="remove the data directory at the end")
    options = arguments.parse_args()
    settings = Settings(data_dir=options.data_dir) if options.data_dir else Settings()
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        with until_stopped(), running_stack(settings, console.print, console) as stack:
            print(json.dumps(stack.record.addresses), flush=True)  # noqa: T201 - the answer of this command
            while options.while_locked is None or _is_held(options.while_locked):
                time.sleep(LOCK_PAUSE_SECONDS)
    except StackError as error:
        console.print(error)
        return 1
    finally:
        if options.ephemeral:
            shutil.rmtree(settings.data_dir, ignore_errors=True)
    return 0


def _is_held(path: Path) -> bool:
    try:
        with path.open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


if __name__ == "__main__":
    leave(main())
