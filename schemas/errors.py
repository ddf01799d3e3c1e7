"""The one tree of errors. Each class is a word of the protocol; each instance has a stable, dotted `code`.

The roof turns them into what its world speaks: a problem document in the API, a quarantine row in a flow,
a non-retryable failure in a workflow. Codes are public: they may grow, never change.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One wrong place in an input. `pointer` is a JSON pointer (RFC 6901) into the body that was sent."""

    pointer: str
    code: str
    detail: str


class MeterlineError(Exception):
    """Base of all errors that are ours to explain. `detail` tells a person what to do next."""

    def __init__(self, code: str, detail: str, *, errors: tuple[FieldError, ...] = ()) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.errors = errors

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class Malformed(MeterlineError):
    """The input can't be read at all (HTTP 400)."""


class Unauthenticated(MeterlineError):
    """No key, or one that opens nothing (HTTP 401)."""


class Forbidden(MeterlineError):
    """The key is good, its role does not reach this far (HTTP 403)."""


class NotFound(MeterlineError):
    """No such object in this tenant (HTTP 404). Another tenant's object is not found either."""


class TimedOut(MeterlineError):
    """The input did not come in its time (HTTP 408)."""


class Conflict(MeterlineError):
    """The state of things forbids it now (HTTP 409)."""


class TooLarge(MeterlineError):
    """Larger than a named limit (HTTP 413)."""


class UnsupportedMediaType(MeterlineError):
    """A media type or content coding that this place does not read (HTTP 415)."""


class Reject(MeterlineError):
    """Readable, but wrong; sending the same again will not help (HTTP 422)."""

    @classmethod
    def at(cls, pointer: str, code: str, detail: str) -> "Reject":
        """A rejection of one field, named by its JSON pointer."""
        return cls(code, detail, errors=(FieldError(pointer=pointer, code=code, detail=detail),))

    def under(self, pointer: str) -> "Reject":
        """The same rejection of a body that stands at `pointer` of a larger one."""
        errors = tuple(replace(error, pointer=pointer + error.pointer) for error in self.errors)
        return Reject(self.code, self.detail, errors=errors)


class Retry(MeterlineError):
    """Nothing is wrong with the input; try again after `retry_after_seconds` (HTTP 503, or 429 for a limit)."""

    def __init__(self, code: str, detail: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(code, detail)
        self.retry_after_seconds = retry_after_seconds


class InvariantBroken(MeterlineError):
    """Something that must hold does not. The account is parked; the run goes on; a person is told."""


class Fenced(MeterlineError):
    """Another process owns this shard now. The one that sees this stops at once."""
