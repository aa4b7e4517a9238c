"""Tables on disk, byte-stable: the same table gives the same bytes on any day."""

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from condrand.errors import InputError, listed
from condrand.io.atomic import replacing

# What a user's table may hold for a missing value. "None" is a level like any other.
_MISSING = ["", "NA", "NaN", "nan", "N/A", "#N/A", "<NA>"]
_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", " ": "blanks"}
# Rows of the readable copy: more than a spreadsheet opens; the Parquet table holds them all.
TSV_ROWS = 1_000_000
# Of a table whose size is asked for, this much is looked at.
_HEAD_BYTES = 2**18


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


def write_effects(
    table: pd.DataFrame, parquet: str | Path, tsv: str | Path, by: str = "neg_log10_p"
) -> pd.DataFrame:
    """Write a table of effects, and its readable copy.

    Parameters
    ----------
    table : pandas.DataFrame
    parquet, tsv : str or pathlib.Path
        Files to write: all rows as they are, and the largest :data:`TSV_ROWS` by a column.
    by : str

    Returns
    -------
    pandas.DataFrame
        The readable copy: the largest first.
    """
    write_parquet(table, parquet)
    first = table.sort_values(by, ascending=False, kind="stable").head(TSV_ROWS)
    write_tsv(first, tsv)
    return first


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


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a user's table: names in the first column, and a header.

    Parameters
    ----------
    path : str or pathlib.Path
        Commas between the fields where the name ends in .csv, tabs for .tsv and .tab; else what
        the first lines hold. May be gzipped: .gz.

    Returns
    -------
    pandas.DataFrame
        Index: the first column as text. Columns as the header has them, so they may repeat. A
        header without a name for the first column, as R writes it, may be one field shorter.

    Raises
    ------
    condrand.errors.InputError
        If the file cannot be read, is empty, or its lines differ in length.
    """
    with _opened(path) as file:
        separator = _separator(path, file)
        names = _names(path, file, separator)
        # The parser goes on behind the header.
        next(_records(file, separator))
        table = pd.read_csv(
            file,
            sep=separator,
            header=None,
            dtype={0: str},
            na_values=dict.fromkeys(range(1, len(names)), _MISSING),
            keep_default_na=False,
            skipinitialspace=separator != "\t",
            # The default parser is off by one in the last place of some numbers.
            float_precision="round_trip",
            low_memory=False,
        )
    index = pd.Index(table.pop(0).to_numpy(object), name=names[0].strip() or None)
    # Spreadsheets leave separators without anything between them, to the right and below.
    kept = [i for i in table if names[i].strip() or table[i].notna().any()]
    table = table[kept].set_axis(pd.Index([names[i] for i in kept], dtype=object), axis=1)
    table.index = index
    empty = (index.str.strip() == "") & table.isna().all(axis=1).to_numpy()
    return table[~empty] if empty.any() else table


@contextmanager
def _opened(path: str | Path) -> Iterator[TextIO]:
    """A user's text, gzipped or not; what goes wrong while it is read becomes an InputError."""
    opener = gzip.open if str(path).lower().endswith(".gz") else open
    damaged = "copy or download it again."
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        text = f"is no text in UTF-8 (byte {error.object[error.start]:#04x})"
        mend = "save it as text, with the encoding UTF-8; a spreadsheet as .csv."
        raise _refusal(path, text, mend) from error
    except FileNotFoundError as error:
        raise _refusal(path, "there is no such file", "correct the path.") from error
    except gzip.BadGzipFile as error:
        mend = "take .gz off its name, or compress it."
        raise _refusal(path, "is named .gz and not gzipped", mend) from error
    except (EOFError, zlib.error) as error:
        raise _refusal(path, "the file is truncated or damaged", damaged) from error
    except (OSError, csv.Error, pd.errors.ParserError) as error:
        text = str(error).strip().split("\n")[0]
        raise _refusal(path, f"cannot be read ({text})", damaged) from error


def _refusal(path: str | Path, what: str, mend: str) -> InputError:
    return InputError(f"{path}: {what}\n      -> {mend}")


def _records(file: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of the records from the start: no blank lines, no comment on top."""
    file.seek(0)
    reader = csv.reader(file, delimiter=separator, skipinitialspace=separator != "\t")
    on_top = True
    for fields in reader:
        # featureCounts says on top by what command it was made.
        if len(fields) < 2 and not "".join(fields).strip():
            continue
        if on_top and fields[0].startswith("# "):
            continue
        on_top = False
        yield reader.line_num, fields


def _separator(path: str | Path, file: TextIO) -> str:
    """What parts the fields: by the name of the file, or as its first lines tell."""

    def n_fields(separator: str) -> list[int]:
        records = _records(file, separator)
        return [len(fields) for _, (_, fields) in zip(range(2), records, strict=False)]

    name = str(path).lower().removesuffix(".gz")
    known = {".csv": ",", ".tsv": "\t", ".tab": "\t"}.get(Path(name).suffix)
    counts = {separator: n_fields(separator) for separator in _SEPARATORS}
    if not counts["\t"]:
        raise _refusal(path, "the file is empty", "copy or download it again.")
    fitting = [
        separator
        for separator, (header, *row) in counts.items()
        if max([header, *row]) > 1 and (not row or row[0] - header in (0, 1))
    ]
    if known is None:
        return fitting[0] if fitting else "\t"
    found = [separator for separator in fitting if separator != " "]
    if counts[known][0] == 1 and found and known not in found:
        raise _refusal(
            path,
            f"line 1 has no {_SEPARATORS[known]} between its fields, but {_SEPARATORS[found[0]]}",
            f"write it with {_SEPARATORS[known]}, or name it .txt.",
        )
    return known


def _names(path: str | Path, file: TextIO, separator: str) -> list[str]:
    """Names of all columns, once every line has been seen to be as long as the first."""
    records = _records(file, separator)
    _, header = next(records)
    width, ragged, blank_ends = None, [], True
    for line, fields in records:
        if width is None:
            width = len(fields) if len(fields) == len(header) + 1 else len(header)
        if len(fields) != width:
            ragged.append((line, len(fields)))
        blank_ends = blank_ends and not fields[-1].strip()
        if "\0" in "".join(fields):
            # The parser would take such a field for an empty one.
            text, mend = f"is no text (line {line} holds a zero byte)", "save it as UTF-8."
            raise _refusal(path, text, mend)
    if width is None:
        raise _refusal(path, "has a header and no rows", "copy or download it again.")
    if ragged:
        lines = listed((f"line {line} has {n}" for line, n in ragged), 3)
        raise _refusal(
            path,
            f"lines differ in length: {lines}; the header makes it {width} fields",
            f"give every line {width} fields, with {_SEPARATORS[separator]} between them.",
        )
    if width == len(header):
        return header
    # One field more than the header has: a separator too many, or the header of R.
    return [*header, ""] if blank_ends else ["", *header]


def count_table_size(path: str | Path) -> tuple[int, int]:
    """About how many rows and columns of numbers a count table has, from its first lines.

    Returns
    -------
    rows, columns : int
        Rows by the size of the file. The first column is names.
    """
    path = Path(path)
    size = path.stat().st_size
    with open(path, "rb") as raw:
        if path.suffix == ".gz":
            with gzip.open(raw) as text:
                head = text.read(_HEAD_BYTES)
                # The reader fetches compressed bytes in advance: of a small file, all of them.
                size = size * len(head) // max(1, raw.tell())
        else:
            head = raw.read(_HEAD_BYTES)
    lines = head.split(b"\n")
    separator = max((b"\t", b",", b";", b" "), key=lines[0].count)
    # What follows the last line's end is no whole row.
    whole = lines[1:-1]
    if len(head) < _HEAD_BYTES or not whole:
        rows = len([line for line in lines[1:] if line.strip()])
    else:
        rows = round(size / (sum(map(len, whole)) / len(whole) + 1))
    return rows, lines[0].count(separator)


def write_text(text: str, path: str | Path) -> None:
    """Write a small text file, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def read_text(path: str | Path) -> str:
    """Read a small text file."""
    return Path(path).read_text()
