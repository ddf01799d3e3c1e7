"""Makes the broker start quickly: one trial run whose loaded and linked classes Java keeps in a file (JEP 483, 514).

With the file a start costs 2 CPU-seconds instead of 4.5. It is made once for a user, by a process of lowest priority
that runs beside the first stack: `python -m infra.local.kafka_training CACHE_DIR`. Without it everything works, slower.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from infra.local import kafka, leftovers, ports

START_LIMIT_SECONDS = 120
STOP_LIMIT_SECONDS = 180  # the file is written while the broker ends
PAUSE_SECONDS = 0.1
LOWEST_PRIORITY = 19
STARTED = "Kafka Server started"
WRITTEN = "AOTCache creation is complete"


def start(data_dir: Path, cache_dir: Path) -> subprocess.Popen[bytes] | None:
    """Start the trial run beside the stack in `data_dir`, when the file is missing."""
    if kafka.quick_start_file(cache_dir).exists():
        return None
    return subprocess.Popen(
        [sys.executable, "-m", "infra.local.kafka_training", str(cache_dir)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **leftovers.mark(data_dir)},  # it ends with the stack
    )


def main() -> None:
    """Make the file, unless another process is at it. It appears under its name only when it is whole."""
    os.nice(LOWEST_PRIORITY)
    cache_dir = Path(sys.argv[1])
    with (cache_dir / "kafka-training.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix="kafka-training-") as place:
            _train(cache_dir, Path(place))


def _train(cache_dir: Path, place: Path) -> None:
    fresh, log = place / "fresh.aot", place / "log"
    port = ports.choose(set())
    component = kafka.component(place, cache_dir, port, ports.choose({port}))
    component.prepare()
    java, *options = component.command
    with log.open("wb") as output:
        broker = subprocess.Popen(
            [java, f"-XX:AOTCacheOutput={fresh}", *options],
            stdout=output,
            stderr=output,
            env={**os.environ, **component.environment},
        )
    try:
        deadline = time.monotonic() + START_LIMIT_SECONDS
        while STARTED not in log.read_text(encoding="utf-8") and time.monotonic() < deadline and broker.poll() is None:
            time.sleep(PAUSE_SECONDS)
        broker.terminate()
        broker.wait(STOP_LIMIT_SECONDS)
    finally:
        broker.kill()
        broker.wait()
    if WRITTEN in log.read_text(encoding="utf-8"):
        fresh.replace(kafka.quick_start_file(cache_dir))


if __name__ == "__main__":
    main()
