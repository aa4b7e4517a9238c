"""Names beside points, placed so that they hide neither each other nor much else."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from condrand.plots.points import shorten
from condrand.plots.style import GUIDE_COLOUR, LINE, SMALL_FONT

_POINTS_PER_INCH = 72.0
# Candidate places, in points: from touching to a leader of almost an inch.
_DISTANCES = np.array([3.0, 8.0, 14.0, 21.0, 30.0, 42.0, 56.0])
# Sixteen directions. Beside the point reads best, then above and below, then slanting.
_DIRECTIONS = np.array(
    [(1, 0), (-1, 0), (0, 1), (0, -1)]
    + [(x, y) for y in (1, -1) for x in (1, -1)]
    + [(x, y) for y in (1, -1) for x in (0.5, -0.5, 2, -2)],
    dtype=float,
)
_DIRECTIONS /= np.hypot(*_DIRECTIONS.T)[:, None]
_AWKWARD = np.repeat([0.0, 0.5, 1.0], [2, 2, 12])
_GAP = 0.5
# Costs of a place: every point hidden, a named one more; every other point so near that the name
# seems to be its own, or that the leader runs over; the leader by its length. Reaching half an
# inch further is better than hiding a point. A name that costs more than the largest is left out.
_HIDDEN = 6.0
_NAMED = 24.0
_BESIDE, _MARGIN = 1.0, 3.0
_CROSSED = 4.0
_PER_LENGTH = 0.1
_LARGEST_COST = 24.0


@dataclass(frozen=True)
class _Places:
    """Candidate places of one name that lie inside the panel, in points.

    ``ends`` (n, 2) where the leader meets the text; ``leaders`` (n, 12, 2) points along it;
    ``boxes`` (n, 4) left, bottom, right, top of the text; ``costs`` (n,).
    """

    ends: np.ndarray
    leaders: np.ndarray
    boxes: np.ndarray
    costs: np.ndarray


def place_labels(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    names: list[str],
    obstacles: np.ndarray,
    *,
    size: float = SMALL_FONT,
) -> int:
    """Write names beside points, each where it hides least.

    Parameters
    ----------
    axes
        Changed in place; its limits and position are final (``freeze_layout``).
    x, y : float64 array, shape (n_labels,)
        Data coordinates of the points named.
    names
        One per point, the most important first.
    obstacles : float64 array, shape (n_points, 2)
        Data coordinates of all points drawn.
    size
        Height of the font in points.

    Returns
    -------
    int
        Number of names written. A name without a good place is left out.

    Notes
    -----
    Deterministic. A place is refused when the text would leave the panel, touch another name
    or cross a leader; among the others, the one that hides the fewest points wins, weighed
    against the length of its leader. Names are placed one after another, in four orders: as
    given, from the left, from the right, from the middle. The order that writes most names,
    the first ones counting most, then the one that hides least, is kept.
    """
    if not names:
        return 0
    to_points = _POINTS_PER_INCH / axes.figure.dpi
    frame = axes.get_window_extent()
    frame_box = np.array([frame.x0, frame.y0, frame.x1, frame.y1]) * to_points
    anchors = axes.transData.transform(np.column_stack([x, y])) * to_points
    marks = axes.transData.transform(obstacles) * to_points
    # Two marks within one point hide each other; counting one of them keeps the search short.
    marks = np.unique(np.rint(marks), axis=0)
    candidates = [
        _places(anchor, _extent(name, size), anchors, marks, frame_box)
        for anchor, name in zip(anchors, names, strict=True)
    ]
    middle = (frame_box[0] + frame_box[2]) / 2.0
    orders = (
        np.arange(len(names)),
        np.argsort(anchors[:, 0], kind="stable"),
        np.argsort(-anchors[:, 0], kind="stable"),
        np.argsort(np.abs(anchors[:, 0] - middle), kind="stable"),
    )
    trials = [_arrange(candidates, order) for order in orders]
    # The first name counts about twice as much as the last.
    chosen, _ = min(
        trials, key=lambda trial: (sum(i - 2 * len(names) for i in trial[0]), trial[1])
    )
    for i in sorted(chosen):
        places, k = candidates[i], chosen[i]
        centre = (places.boxes[k, :2] + places.boxes[k, 2:]) / 2.0
        _write(axes, names[i], anchors[i], centre, places.ends[k], size)
    return len(chosen)


def _places(
    anchor: np.ndarray,
    extent: np.ndarray,
    anchors: np.ndarray,
    marks: np.ndarray,
    frame: np.ndarray,
) -> _Places:
    steps = (_DISTANCES[:, None, None] * _DIRECTIONS).reshape(-1, 2)
    distances = np.repeat(_DISTANCES, len(_DIRECTIONS))
    ends = anchor + steps
    # The text lies wholly beyond the end of the leader, along either axis.
    unit = steps / distances[:, None]
    corners = ends + (np.clip(2.0 * unit, -1.0, 1.0) - 1.0) / 2.0 * extent
    boxes = np.hstack([corners - _GAP, corners + extent + _GAP])
    leaders = anchor + steps[:, None, :] * np.linspace(0.1, 1.0, 12)[:, None]
    costs = np.tile(_AWKWARD, _DISTANCES.size) + _PER_LENGTH * distances
    costs += _HIDDEN * _inside(marks, boxes).sum(axis=1)
    costs += _NAMED * _inside(anchors, boxes).sum(axis=1)
    # A name close to another point, and a leader that runs over one, seem to belong to it.
    others = marks[np.abs(marks - anchor).max(axis=1) > 1.5]
    wide = boxes + _MARGIN * np.array([-1.0, -1.0, 1.0, 1.0])
    costs += _BESIDE * _inside(others, wide).sum(axis=1)
    near = others[np.abs(others - anchor).max(axis=1) < _DISTANCES[-1] + 2.0]
    if near.size:
        gaps = np.abs(leaders[:, :, None, :] - near).max(axis=3)
        costs += _CROSSED * (gaps < 1.5).any(axis=1).sum(axis=1)
    good = (
        np.all(boxes[:, :2] >= frame[:2], axis=1)
        & np.all(boxes[:, 2:] <= frame[2:], axis=1)
        & (costs <= _LARGEST_COST)
    )
    return _Places(ends[good], leaders[good], boxes[good], costs[good])


def _arrange(candidates: list[_Places], order: np.ndarray) -> tuple[dict[int, int], float]:
    """Give the place chosen for each name that has one, and the total cost."""
    chosen: dict[int, int] = {}
    total = 0.0
    boxes = np.empty((0, 4))
    leaders = np.empty((0, 12, 2))
    for i in order:
        places = candidates[i]
        taken = _overlap(places.boxes, boxes).any(axis=1)
        for box in boxes:
            taken |= _inside(places.leaders.reshape(-1, 2), box[None])[0].reshape(-1, 12).any(1)
        for leader in leaders:
            taken |= _inside(leader, places.boxes).any(axis=1)
            taken |= _cross(places.leaders[:, 0], places.leaders[:, -1], leader[0], leader[-1])
        costs = np.where(taken, np.inf, places.costs)
        if not np.isfinite(costs).any():
            continue
        k = int(np.argmin(costs))
        chosen[int(i)] = k
        total += float(costs[k])
        boxes = np.vstack([boxes, places.boxes[k]])
        leaders = np.concatenate([leaders, places.leaders[k : k + 1]])
    return chosen, total


def fit(name: str, width: float, *, size: float) -> str:
    """Cut a name in its middle until it is no wider than wanted.

    Parameters
    ----------
    name
        A feature or target.
    width
        In points.
    size
        Height of the font in points.

    Returns
    -------
    str
        At least its two end characters around an ellipsis.
    """
    length = len(name)
    while length > 3 and _extent(shorten(name, length), size)[0] > width:
        length -= 1
    return shorten(name, length)


def _write(
    axes: Axes,
    name: str,
    anchor: np.ndarray,
    centre: np.ndarray,
    leader_end: np.ndarray,
    size: float,
) -> None:
    dots = axes.figure.dpi / _POINTS_PER_INCH
    at = tuple(axes.transData.inverted().transform(anchor * dots))
    if np.hypot(*(leader_end - anchor)) > _DISTANCES[0] + 0.1:
        axes.annotate(
            "",
            at,
            xytext=tuple(leader_end - anchor),
            textcoords="offset points",
            arrowprops={
                "arrowstyle": "-",
                "linewidth": LINE / 2,
                "color": GUIDE_COLOUR,
                "shrinkA": 0.0,
                "shrinkB": 0.0,
            },
            zorder=4,
        )
    axes.annotate(
        name,
        at,
        xytext=tuple(centre - anchor),
        textcoords="offset points",
        ha="center",
        va="center_baseline",
        fontsize=size,
        zorder=5,
        gid="label",
    )


def _extent(name: str, size: float) -> np.ndarray:
    """Give width and height of a line of text in points, shape (2,)."""
    if not name.strip():
        return np.array([1.0, size])
    # Escaped, because a path takes a pair of dollar signs for a formula.
    font = FontProperties(family="DejaVu Sans", size=size)
    path = TextPath((0.0, 0.0), name.replace("$", r"\$"), prop=font)
    # On the page letters are set on whole pixels, which widens a line by a few percent.
    return np.array([1.05 * path.get_extents().width + 1.0, size])


def _cross(starts: np.ndarray, ends: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Tell which segments, shape (n, 2) by (n, 2), cross the one from start to end."""

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        first, second = b - a, c - a
        return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]

    return (side(starts, ends, start) * side(starts, ends, end) < 0.0) & (
        side(start, end, starts) * side(start, end, ends) < 0.0
    )


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Tell which boxes overlap which others, shape (n_boxes, n_others)."""
    low = np.all(boxes[:, None, :2] < others[None, :, 2:], axis=2)
    return low & np.all(others[None, :, :2] < boxes[:, None, 2:], axis=2)


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Tell which boxes hold which points, shape (n_boxes, n_points)."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return np.all((points > low) & (points < high), axis=2)
