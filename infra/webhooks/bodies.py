"""What a webhook says: `type`, `timestamp` and `data`, as Standard Webhooks has it, and the event's `id`."""

import msgspec

from schemas.topics import SystemEventMessage


def encode_body(event: SystemEventMessage) -> str:
    """The text that is signed and sent; every attempt sends the same. `data` is the object as the API shows it."""
    return msgspec.json.encode(
        {"id": event.id, "type": event.type, "timestamp": event.created_at, "data": event.data}
    ).decode()
