"""Whether a text is in a Parquet file: in its pages, which are compressed and must be unpacked to be seen, or in its footer.

Only columns of bytes can hold a text. They are read as dictionaries where the file has them, so that a name that stands in a
million rows is looked at once; what is searched is every byte of what was unpacked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 131_072  # unpacked at a time


def search_parquet(source: Any, text: str) -> tuple[bool, int]:
    """Search the pages of a Parquet file.

    Args:
        source: a path, or an open file of Arrow's.

    Returns:
        Whether the text is there, and how many bytes were unpacked to see.

    Raises:
        pyarrow.ArrowException: it is no Parquet file, or a damaged one.
    """
    needle, unpacked = re.compile(re.escape(text.encode())), 0
    with pq.ParquetFile(source) as file:
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        flat = [c.path for c in leaves if c.physical_type == "BYTE_ARRAY" and "." not in c.path]
        tops = sorted({c.path.split(".")[0] for c in leaves if c.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")})
    if not tops:
        return False, 0
    with pq.ParquetFile(source, read_dictionary=flat) as file:
        for batch in file.iter_batches(batch_size=ROWS, columns=tops):
            for buffer in (b for column in batch.columns for b in _buffers(column)):
                unpacked += buffer.size
                if needle.search(buffer) is not None:
                    return True, unpacked
    return False, unpacked


def _buffers(column: pa.Array) -> Iterator[pa.Buffer]:
    if isinstance(column, pa.DictionaryArray):
        yield from _buffers(column.dictionary)
        return
    yield from (b for b in column.buffers() if b is not None)
