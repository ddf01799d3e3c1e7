"""Later copies of events: they count for nothing, and may say something else than the first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from infra.clickhouse.client import Client
from infra.clickhouse.events import GIVEN_HASHES, IDENTITIES_A_QUERY
from schemas.instants import from_micros

#: Payloads are up to 64 KiB each, so those of few identities are read at a time.
IDENTITIES_A_PAYLOAD_QUERY = 50
MAX_PAYLOADS = 20  # different ones of one event that are compared with the first

_FINGERPRINT = (
    "xxHash64(type, subject, if(untimed, 0, toUnixTimestamp64Micro(occurred_at)), data, extensions) AS fingerprint"
)


class Copy(NamedTuple):
    """One later copy. Copies of one event with the same `fingerprint` say the same."""

    received_at: datetime
    fingerprint: int


@dataclass(frozen=True, slots=True)
class Copies:
    """How many later copies an identity has, and the oldest of them."""

    count: int
    oldest: tuple[Copy, ...]


@dataclass(frozen=True, slots=True)
class Payload:
    """What a copy says. `untimed`: it came without a time, so its `occurred_at` claims nothing."""

    occurred_at: datetime
    untimed: bool
    type: str
    subject: str
    data: str
    extensions: str


def load_copies(client: Client, *, tenant_no: int, identities: Sequence[str], limit: int) -> dict[str, Copies]:
    """The copies of those identities that have any; up to `limit` of each, oldest first."""
    found: dict[str, Copies] = {}
    for start in range(0, len(identities), IDENTITIES_A_QUERY):
        page = identities[start : start + IDENTITIES_A_QUERY]
        rows = client.query(
            "SELECT hex(hash), count(), arraySlice(arraySort(groupArray("  # noqa: S608 - texts of this file
            " (toUnixTimestamp64Micro(received_at), kafka_offset, kafka_index, fingerprint))), 1, {limit:UInt32})"
            f" FROM (SELECT hash, received_at, kafka_offset, kafka_index, {_FINGERPRINT} FROM event_copies"
            f"  WHERE tenant_no = {{tenant_no:UInt32}} AND hash IN {GIVEN_HASHES}"
            "  LIMIT 1 BY hash, kafka_partition, kafka_offset, kafka_index) GROUP BY hash",
            parameters={"tenant_no": tenant_no, "hashes": "".join(page), "count": len(page), "limit": limit},
        ).result_rows
        for identity, count, copies in rows:
            oldest = tuple(Copy(from_micros(received), fingerprint) for received, *_, fingerprint in copies)
            found[identity] = Copies(count, oldest)
    return found


def load_payloads(client: Client, *, tenant_no: int, identities: Sequence[str]) -> Mapping[str, dict[int, Payload]]:
    """What copies of at most IDENTITIES_A_PAYLOAD_QUERY identities say, by fingerprint; MAX_PAYLOADS of each."""
    rows = client.query(
        "SELECT hex(hash), fingerprint, toUnixTimestamp64Micro(occurred_at), untimed, type, subject, data, extensions"  # noqa: S608 - texts of this file
        f" FROM (SELECT *, {_FINGERPRINT} FROM event_copies"
        f"  WHERE tenant_no = {{tenant_no:UInt32}} AND hash IN {GIVEN_HASHES}"
        "  ORDER BY kafka_offset, kafka_index LIMIT 1 BY hash, fingerprint)"
        " ORDER BY kafka_offset, kafka_index LIMIT {limit:UInt32} BY hash",
        parameters={
            "tenant_no": tenant_no,
            "hashes": "".join(identities),
            "count": len(identities),
            "limit": MAX_PAYLOADS,
        },
    ).result_rows
    found: dict[str, dict[int, Payload]] = {}
    for identity, fingerprint, occurred, *fields in rows:
        found.setdefault(identity, {})[fingerprint] = Payload(from_micros(occurred), *fields)
    return found
