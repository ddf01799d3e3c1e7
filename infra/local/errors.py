"""What goes wrong in the embedded stack."""

from schemas.errors import MeterlineError


class StackError(MeterlineError):
    """The stack can't start or can't go on. The detail says what to do next."""
