import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from infra.settings import Settings
from infra.telemetry import configure_logging


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_our_events_and_the_libraries_records_are_json_lines_of_one_shape(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"), service="api")
    structlog.get_logger("meterline").info("hello", customer="acme")
    logging.getLogger("some.library").warning("careful: %s", "wet paint")
    ours, theirs = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (ours["event"], ours["customer"], ours["level"], ours["service"]) == ("hello", "acme", "info", "api")
    assert (theirs["event"], theirs["level"], theirs["service"]) == ("careful: wet paint", "warning", "api")
    assert ours["timestamp"].endswith("Z")


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json", log_level="warning"), service="api")
    structlog.get_logger("meterline").info("hello")
    logging.getLogger("some.library").info("hello")
    assert capsys.readouterr().err == ""


def test_a_trace_is_a_field_without_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Settings(log_format="json"), service="api")
    secret = "mtr_secret"
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("meterline").exception("failed", secret_length=len(secret))
    line = capsys.readouterr().err
    assert json.loads(line)["exception"]
    assert "mtr_secret" not in line
