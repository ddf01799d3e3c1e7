"""Calls of the HTTP API by commands: the address and key as options, a problem document as a plain sentence."""

from typing import Annotated, Any

import httpx2
import typer

TIMEOUT_SECONDS = 30

Url = Annotated[str, typer.Option("--url", envvar="METERLINE_URL", help="Where the API serves.")]
Key = Annotated[str, typer.Option("--api-key", envvar="METERLINE_API_KEY", help="A key of yours, mtr_…")]

DEFAULT_URL = "http://127.0.0.1:8080"


def call(
    method: str, url: str, key: str, path: str, *, body: Any = None, timeout_seconds: int = TIMEOUT_SECONDS
) -> Any:
    """The decoded answer. What the API refuses, or that it is not there, is said on stderr, with exit status 1."""
    return fetch(method, url, key, path, body=body, timeout_seconds=timeout_seconds).json()


def fetch(
    method: str,
    url: str,
    key: str,
    path: str,
    *,
    body: Any = None,
    accept: str = "application/json",
    timeout_seconds: int = TIMEOUT_SECONDS,
) -> httpx2.Response:
    """The answer as it came, if it is a good one; else as `call`."""
    try:
        answer = httpx2.request(
            method,
            url.rstrip("/") + path,
            json=body,
            headers={"authorization": f"Bearer {key}", "accept": accept},
            timeout=timeout_seconds,
        )
    except httpx2.TransportError as error:
        raise refuse(f"{url} does not answer: {error}") from error
    if answer.is_success:
        return answer
    raise refuse_as(url, answer)


def refuse_as(url: str, answer: httpx2.Response) -> typer.Exit:
    """Say what a refusing answer, which has been read, says; raise what comes back."""
    try:
        problem = answer.json()
        return refuse(f"{problem['code']}: {problem['detail']}")
    except (ValueError, KeyError, TypeError):
        return refuse(f"{url} answers with status {answer.status_code}; is it Meterline?")


def refuse(reason: str) -> typer.Exit:
    """Say why on stderr; raise what comes back."""
    typer.echo(reason, err=True)
    return typer.Exit(1)
