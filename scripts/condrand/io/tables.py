"""Tables on disk, byte-stable: the same table gives the same bytes on any day."""

import gzip
from pathlib import Path

import pandas as pd

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


def read_parquet(path: str | Path) -> pd.DataFrame:
    """Read a table written by :func:`write_parquet`."""
    return pd.read_parquet(path)


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
