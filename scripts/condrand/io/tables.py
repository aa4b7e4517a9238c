"""Tables on disk, byte-stable: the same table gives the same bytes on any day."""

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from condrand.io.atomic import replacing


def write_tsv(table: pd.DataFrame, path: str | Path, decimals: int = 10) -> None:
    """Write a table as tab-separated text, gzipped where the name ends in .gz.

    Parameters
    ----------
    table : pandas.DataFrame
    path : str or pathlib.Path
    decimals : int
        Significant digits of floats. Parquet keeps them all.
    """
    final = str(path)
    with replacing(path) as temporary:
        text = table.to_csv(
            sep="\t", index=False, float_format=f"%.{decimals}g", na_rep="", lineterminator="\n"
        ).encode()
        if ".gz" in Path(final).suffixes:
            # mtime=0: a time stamp would change the bytes of an identical table.
            text = gzip.compress(text, compresslevel=6, mtime=0)
        temporary.write_bytes(text)


def write_parquet(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as Parquet, every bit of its floats kept."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def write_parquet_parts(parts: Iterable[pd.DataFrame], path: str | Path) -> None:
    """As :func:`write_parquet`, a part (row group) after the other; at least one.

    Categories of all parts must be the same.
    """
    with replacing(path) as temporary:
        writer = None
        for part in parts:
            rows = pa.Table.from_pandas(part, preserve_index=False)
            # The parts' own schemas tell how many rows each has.
            writer = writer or pq.ParquetWriter(temporary, rows.schema, compression="zstd")
            writer.write_table(rows.replace_schema_metadata(writer.schema.metadata))
        writer.close()


def read_parquet(path: str | Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table, or those of some columns that it has."""
    if columns is not None:
        there = pq.read_schema(path).names
        columns = [name for name in columns if name in there]
    return pd.read_parquet(path, columns=columns)


class UnitTables:
    """Rows of the units of several Parquet tables, unit after unit by name.

    Parameters
    ----------
    paths : list of str or pathlib.Path
        Tables with the columns ``kind`` and ``target``, and others that are the same in all. Only
        these two are held.
    """

    def __init__(self, paths: list[str | Path]):
        self._files = [pq.ParquetFile(path) for path in paths]
        self._where: dict[str, dict[str, list[tuple[int, int, int, int]]]] = {}
        for f, file in enumerate(self._files):
            for g in range(file.num_row_groups):
                self._find(f, g)
        self._held: dict[int, tuple[object, pd.DataFrame]] = {}

    def _find(self, f: int, g: int) -> None:
        """Note where the units of a row group are."""
        rows = self._files[f].read_row_group(g, columns=["kind", "target"]).to_pandas()
        if not len(rows):
            return
        kind, target = (pd.Categorical(rows[name]) for name in ("kind", "target"))
        kinds, targets = kind.codes.astype(np.int64), target.codes.astype(np.int64)
        changed = (np.diff(kinds) != 0) | (np.diff(targets) != 0)
        starts = np.concatenate([[0], np.flatnonzero(changed) + 1])
        stops = np.concatenate([starts[1:], [len(rows)]])
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            units = self._where.setdefault(str(kind[start]), {})
            units.setdefault(str(target[start]), []).append((f, g, start, stop))

    @property
    def columns(self) -> list[str]:
        """Columns of the tables."""
        return self._files[0].schema_arrow.names

    def empty(self) -> pd.DataFrame:
        """The columns without rows."""
        return self._files[0].schema_arrow.empty_table().to_pandas()

    def parts(
        self, kind: str, least_rows: int, columns: list[str] | None = None
    ) -> Iterator[list[pd.DataFrame]]:
        """Yield the tables of whole units, by name, so many that they have enough rows."""
        held, size = [], 0
        for _, places in sorted(self._where.get(kind, {}).items()):
            for f, g, start, stop in places:
                held.append(self._group(f, g, columns).iloc[start:stop])
                size += stop - start
            if size >= least_rows:
                yield held
                held, size = [], 0
        if held:
            yield held

    def _group(self, f: int, g: int, columns: list[str] | None) -> pd.DataFrame:
        key = (g, None if columns is None else tuple(columns))
        if f not in self._held or self._held[f][0] != key:
            rows = self._files[f].read_row_group(g, columns=columns).to_pandas()
            self._held[f] = key, rows
        return self._held[f][1]


def read_tsv(path: str | Path) -> pd.DataFrame:
    """Read a table written by :func:`write_tsv`: only an empty field is missing, no name is."""
    table = pd.read_csv(path, sep="\t", keep_default_na=False, na_values=[""])
    text = table.select_dtypes(object).columns
    return table.fillna(dict.fromkeys(text, ""))


def write_text(text: str, path: str | Path) -> None:
    """Write a small text file, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def read_text(path: str | Path) -> str:
    """Read a small text file."""
    return Path(path).read_text()
