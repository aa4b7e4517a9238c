"""Figures to files: complete or absent, and equal bytes for an equal figure."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from condrand.io.atomic import replacing

# Per suffix: resolution in dots per inch (of embedded images in SVG and PDF) and the metadata
# that keeps the time of writing out of the file.
_FORMATS: dict[str, tuple[int, dict[str, None]]] = {
    ".png": (200, {}),
    ".svg": (300, {"Date": None}),
    ".pdf": (300, {"CreationDate": None}),
}
_SETTINGS = {
    # Without a salt the identifiers inside an SVG are drawn at random.
    "svg.hashsalt": "condrand",
    # Text stays text: searchable, and editable in a drawing program.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


def save_figure(figure: Figure, *paths: str | os.PathLike[str]) -> None:
    """Save a figure to each path, in the format that its suffix names.

    Parameters
    ----------
    figure
        Not changed.
    *paths
        Files ending in .png (200 dots per inch), .svg or .pdf; missing folders are made.

    Raises
    ------
    ValueError
        If a suffix is another one; then nothing is written.

    Notes
    -----
    Each file is written under a temporary name in its folder and renamed, so that a file
    under its own name is complete. Saving an equal figure gives equal bytes, so that
    Snakemake sees no change.
    """
    targets = [Path(path) for path in paths]
    for path in targets:
        if path.suffix not in _FORMATS:
            raise ValueError(
                f"cannot save a figure as {str(path)!r}: the suffix is {path.suffix!r}, "
                f"expected one of {', '.join(_FORMATS)}"
            )
    with _settings():
        for path in targets:
            _save(figure, path)


def save_pages(figures: Iterable[Figure], path: str | os.PathLike[str]) -> None:
    """Save figures as the pages of one PDF.

    Parameters
    ----------
    figures
        At least one; taken one after another, so that a generator keeps one in memory.
    path
        File ending in .pdf; its folder is made.

    Raises
    ------
    ValueError
        If the suffix is another one, or there is no figure; then nothing is written.

    Notes
    -----
    Complete or absent, and equal bytes for equal figures, as with :func:`save_figure`.
    """
    path = Path(path)
    if path.suffix != ".pdf":
        raise ValueError(
            f"cannot save pages as {str(path)!r}: the suffix is {path.suffix!r}, expected .pdf"
        )
    dpi, metadata = _FORMATS[".pdf"]
    with _settings(), replacing(path) as temporary:
        with PdfPages(temporary, metadata=metadata) as pages:
            for figure in figures:
                pages.savefig(figure, dpi=dpi)
            if not pages.get_pagecount():
                raise ValueError(f"there is no figure to save as {str(path)!r}")


@contextmanager
def _settings() -> Iterator[None]:
    with matplotlib.rc_context():
        # A user's matplotlibrc must not change the bytes.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def _save(figure: Figure, path: Path) -> None:
    dpi, metadata = _FORMATS[path.suffix]
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=dpi, metadata=metadata)
