"""Reading of single slices of Parquet files."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heretic.errors import PromptError, one_line
from heretic.prompts.columns import Row, require_columns
from heretic.prompts.limits import TextBudget

# Maximum uncompressed bytes of a column in a row group.
MOST_GROUP_BYTES = 1_000_000_000
# Batches are small if a single value may be large, as a page can repeat it without limit.
BATCH_BYTES = 256_000_000
FEWEST_IN_BATCH, MOST_IN_BATCH = 16, 1024


class ParquetFile:
    """Selected columns of a file.

    Attributes:
        count: number of rows according to the file's metadata.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Read the metadata only.

        Raises:
            PromptError: the file is not Parquet, lacks a column, or has too large row groups.
        """
        from pyarrow import parquet

        self._path, self._columns = path, list(columns)
        with _explaining(path):
            self._file = parquet.ParquetFile(path)
            require_columns(columns, self._file.schema_arrow.names, str(path))
            metadata = self._file.metadata
            self.count = int(metadata.num_rows)
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        self._sizes = [int(group.num_rows) for group in groups]
        self._bytes = [self._column_bytes(group) for group in groups]
        if min(self._sizes, default=0) < 0 or sum(self._sizes) != self.count:
            raise PromptError(f"{path} is damaged: its row groups have different numbers of rows")
        if max(self._bytes, default=0) > MOST_GROUP_BYTES:
            raise PromptError(
                f"{path} has row groups of {max(self._bytes) / 1e9:.0f} GB; write it again with "
                "smaller ones (row_group_size=10000)"
            )

    def read(self, places: Sequence[int]) -> list[Row]:
        """Read rows by their number in the file.

        Raises:
            PromptError: a row is damaged or missing, or there is too much text.
        """
        wanted = sorted(set(places))
        budget = TextBudget(str(self._path))
        found: dict[int, Row] = {}
        with _explaining(self._path):
            for start, rows in self._batches(wanted):
                taken = {
                    place: rows[place - start].as_py()
                    for place in wanted_between(wanted, start, start + len(rows))
                }
                budget.spend(taken.values())
                found |= taken
        if len(found) < len(wanted):
            raise PromptError(
                f"{self._path} is damaged: it has fewer rows than its metadata declares"
            )
        return [found[place] for place in places]

    def _batches(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield first row number and rows (a struct array) of each batch with requested rows."""
        start = 0
        for number, size in enumerate(self._sizes):
            inside = wanted_between(wanted, start, start + size)
            if inside:
                length = BATCH_BYTES // max(self._bytes[number], 1)
                batches = self._file.iter_batches(
                    batch_size=min(max(length, FEWEST_IN_BATCH), MOST_IN_BATCH),
                    row_groups=[number],
                    columns=self._columns,
                    use_threads=False,
                )
                first = start
                for batch in batches:
                    batch.validate(full=True)
                    yield first, batch.select(self._columns).to_struct_array()
                    first += len(batch)
                    if first > inside[-1]:
                        break
            start += size

    def _column_bytes(self, group: Any) -> int:
        """Return the uncompressed bytes of the largest column, summed over its parts."""
        sizes = dict.fromkeys(self._columns, 0)
        for number in range(group.num_columns):
            column = group.column(number)
            name = column.path_in_schema
            for known in sizes:
                if name == known or name.startswith(f"{known}."):
                    sizes[known] += max(int(column.total_uncompressed_size), 0)
        return max(sizes.values())


def wanted_between(wanted: Sequence[int], start: int, stop: int) -> Sequence[int]:
    """Return the part of a sorted sequence from `start` to below `stop`."""
    return wanted[bisect_left(wanted, start) : bisect_left(wanted, stop)]


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Convert errors caused by damaged files to a `PromptError`."""
    import pyarrow as arrow

    try:
        yield
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{path} holds text that is not UTF-8; write it again with valid text"
        ) from error
    # ValueError is the base class of some of pyarrow's exceptions.
    except (arrow.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        raise PromptError(
            f"{path} is not a readable Parquet file: {one_line(error)}; write it again"
        ) from error
