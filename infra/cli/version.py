"""`meterline version`."""

import json
import platform
from importlib.metadata import version as version_of
from typing import Annotated

import typer


def version(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Print the version of Meterline and of Python."""
    versions = {"meterline": version_of("meterline"), "python": platform.python_version()}
    print(json.dumps(versions) if as_json else f"meterline {versions['meterline']} (Python {versions['python']})")
