"""Columns of texts as one buffer each: no object an event, so that thousands cost what one costs and a copy."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Int64s = NDArray[np.int64]

#: Stands between two texts. No name holds it, and no JSON does.
SEPARATOR = b"\0"


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of UTF-8 texts: joined by SEPARATOR, and the length of each in bytes."""

    joined: bytes
    lengths: Int64s

    def items(self) -> list[bytes]:
        """Each text."""
        return self.joined.split(SEPARATOR)

    def reordered(self, order: Int64s) -> tuple[Any, Int64s]:
        """The texts in another order, one after another with nothing between, as an Arrow buffer; and where each
        ends."""
        places = slice_buffer(self.joined, self.bounds(), 2 * order)
        _, ends, texts = places.buffers()
        return texts, np.frombuffer(ends, np.int64, len(order) + 1)[1:]

    def bounds(self) -> Int64s:
        """Where the texts and the separators between them begin, in turn, and where the last text ends."""
        bounds = np.empty(2 * len(self.lengths), np.int64)
        bounds[0] = 0
        ends = bounds[1::2]
        np.cumsum(self.lengths, out=ends)
        ends += np.arange(len(ends))
        np.add(ends[:-1], 1, out=bounds[2::2])
        return bounds


def slice_buffer(buffer: bytes, bounds: Int64s, places: Int64s) -> Any:
    """An Arrow array of those slices of the buffer between two neighbours of `bounds` whose places are named."""
    slices = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(buffer)]
    )
    return slices.take(pa.array(places))


def texts_of(items: Sequence[bytes]) -> Texts:
    """A column of these texts."""
    return Texts(SEPARATOR.join(items), np.fromiter(map(len, items), np.int64, len(items)))


def concatenate_texts(parts: Sequence[Texts]) -> Texts:
    """One column after another."""
    return Texts(SEPARATOR.join([part.joined for part in parts]), np.concatenate([part.lengths for part in parts]))


@dataclass(frozen=True, slots=True)
class Names:
    """A column of few distinct texts: each once, and which of them each event has (u16)."""

    distinct: list[str]
    codes: NDArray[np.uint16]


def names_of(names: Sequence[str]) -> Names:
    """A column of these names, of which there is one at least."""
    if names.count(names[0]) == len(names):
        return Names([names[0]], np.zeros(len(names), np.uint16))
    code_of: defaultdict[str, int] = defaultdict(count().__next__)
    codes = np.fromiter(map(code_of.__getitem__, names), np.uint16, len(names))
    return Names(list(code_of), codes)


def concatenate_names(parts: Sequence[Names]) -> Names:
    """One column after another, with one dictionary."""
    if all(part.distinct == first.distinct for first, part in pairwise(parts)):
        return Names(parts[0].distinct, np.concatenate([part.codes for part in parts]))
    code_of: dict[str, int] = {}
    codes: list[NDArray[np.uint16]] = []
    for part in parts:
        renumbered = [code_of.setdefault(name, len(code_of)) for name in part.distinct]
        codes.append(np.array(renumbered, np.uint16)[part.codes])
    return Names(list(code_of), np.concatenate(codes))
