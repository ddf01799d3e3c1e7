"""`meterline explain` and `meterline replay`: exit status, and what a sender wrote stays text.

The page docs/events.md runs both.
"""

import io

from rich.console import Console

from infra.cli.explain import to_timeline
from tests.infra.cli.test_commands import run

NOWHERE = ("--url", "http://127.0.0.1:9")


def test_without_an_api_they_fail_and_say_where_they_asked() -> None:
    for command in (("explain", "e1"), ("replay", "--code", "event.invalid_value")):
        done = run(*command, *NOWHERE)
        assert (done.returncode, done.stdout) == (1, ""), command
        assert "http://127.0.0.1:9 does not answer" in done.stderr


def test_misuse_is_told_apart() -> None:
    for command in (("explain",), ("explain", ""), ("replay", "e1"), ("replay", "--cod", "x")):
        assert run(*command, *NOWHERE).returncode == 2, command


def test_what_a_sender_wrote_is_text_and_no_markup() -> None:
    event = {"source": "[red]s", "id": "[/]", "status": "quarantined", "code": "event.unknown_subject", "type": "t",
             "subject": "[bold]", "customer": None, "time": "2026-01-01T00:00:00Z", "copies": 1, "conflict": True,
             "trace": [{"at": None, "step": "received", "detail": "[link=x]y[/link]"}]}  # fmt: skip
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(to_timeline(event))
    said = console.export_text()
    for text in ("[red]s/[/]", "quarantined (event.unknown_subject)", "[bold]", "1, in conflict", "[link=x]y[/link]"):
        assert text in said
