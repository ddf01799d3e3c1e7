"""Secrets and signatures as Standard Webhooks says: `webhook-id`, `webhook-timestamp`, `webhook-signature`."""

from base64 import b64encode
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"  # noqa: S105 - what a secret begins with
SECRET_BYTES = 32


def to_secret(key: bytes) -> str:
    """SECRET_BYTES random bytes as the text that a receiver's library takes."""
    return SECRET_PREFIX + b64encode(key).decode()


def sign(secrets: Sequence[str], *, message_id: str, body: str, now: datetime) -> dict[str, str]:
    """The three headers, with one signature for each secret. `now` is in UTC."""
    signatures = [Webhook(secret).sign(message_id, now, body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
