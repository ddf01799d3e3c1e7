"""How fast reservations are granted: `python -m bench.reserve [--hot]`, which is `bench.check --reserve`."""

import sys

from bench.check import main

if __name__ == "__main__":
    main(["--reserve", *sys.argv[1:]])
