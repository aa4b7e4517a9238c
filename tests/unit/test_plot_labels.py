"""Names beside points."""

import numpy as np

from condrand.plots import style
from condrand.plots.labels import place_labels


def test_a_blank_name_takes_no_room_and_breaks_nothing():
    @style.styled
    def draw():
        figure, axes = style.new_figure(3.0, 2.0)
        style.freeze_layout(figure)
        x, y = np.array([0.2, 0.8]), np.array([0.5, 0.5])
        place_labels(axes[0, 0], x, y, [" ", "GATA1"], np.column_stack([x, y]))
        return figure

    texts = [text.get_text() for text in draw().axes[0].texts]
    assert "GATA1" in texts
