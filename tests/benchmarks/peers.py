"""What benchmarks against other packages share: the environment of these, and its options."""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def with_peers(parser):
    """The options of a command, to which those about peers are added."""
    parser.add_argument(
        "--python", type=Path, default=ROOT / ".cache" / "peers" / "venv" / "bin" / "python"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    return parser.parse_args()


def refuse_without(python, target):
    """Stop where the peers have no environment."""
    if not python.exists():
        raise SystemExit(f"there is no {python}: run `make {target}`, or --peers none")


def versions_of(job):
    """Versions of installed packages."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in job["names"]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


def median(values):
    """Median of a list."""
    values = sorted(values)
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2
