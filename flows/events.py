"""The events of one batch as columns: what every stage of the flow takes and gives."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Texts = Any  # a pyarrow string array: pyarrow publishes no types
Rows = NDArray[np.int64]  # indexes into the columns

#: An event's kind decides which meters look at it: (tenant_no, type).
Kind = tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """`n` events in the order of the log, partition by partition. Every column has n entries.

    Times are microseconds since 1970. `words` are the identity hashes as two little-endian 64-bit words. `kind_codes`
    index `kinds`.
    """

    tenants: NDArray[np.uint32]
    words: NDArray[np.uint64]  # shape (n, 2)
    partitions: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    indexes: NDArray[np.uint32]
    received_at: NDArray[np.int64]
    occurred_at: NDArray[np.int64]
    untimed: NDArray[np.bool_]  # came without a time and took that of its receipt
    kinds: list[Kind]
    kind_codes: NDArray[np.int64]
    sources: Texts
    ids: Texts
    subjects: Texts
    data: Texts
    extensions: Texts

    def __len__(self) -> int:
        return len(self.occurred_at)

    def take(self, rows: Rows) -> "Events":
        """The events at these indexes, in their order."""
        return Events(
            tenants=self.tenants[rows],
            words=self.words[rows],
            partitions=self.partitions[rows],
            offsets=self.offsets[rows],
            indexes=self.indexes[rows],
            received_at=self.received_at[rows],
            occurred_at=self.occurred_at[rows],
            untimed=self.untimed[rows],
            kinds=self.kinds,
            kind_codes=self.kind_codes[rows],
            sources=self.sources.take(rows),
            ids=self.ids.take(rows),
            subjects=self.subjects.take(rows),
            data=self.data.take(rows),
            extensions=self.extensions.take(rows),
        )
