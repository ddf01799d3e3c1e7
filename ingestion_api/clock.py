"""The one place of the API that reads a clock. A handler takes `now: Now` and hands it down."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends


def now() -> datetime:
    """This instant, in UTC. The one instant of a request: FastAPI calls it once and shares the answer."""
    return datetime.now(UTC)


Now = Annotated[datetime, Depends(now)]
