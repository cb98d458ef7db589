"""Grids: each image is where its row and column are, and labels do not cover it."""

import numpy as np

from flax_sd.generation.image_grid import FONT_SIZE, GAP, make_grid, make_sheet


def flat(value: int) -> np.ndarray:
    return np.full((24, 16, 3), (value, 0, 200), np.uint8)  # no grey, which labels have


def test_images_stand_in_rows_and_columns():
    rows = [[flat(10), flat(20), flat(30)], [flat(40), flat(50), flat(60)]]
    sheet = np.asarray(make_sheet(rows, ["a", "b", "c"], ["first", "second one"]))
    for value in (10, 20, 30, 40, 50, 60):
        ys, xs = np.nonzero((sheet == (value, 0, 200)).all(axis=2))
        assert len(ys) == 24 * 16 and np.ptp(ys) == 23 and np.ptp(xs) == 15
    places = [np.argwhere((sheet == (value, 0, 200)).all(axis=2))[0] for value in (10, 20, 40)]
    assert places[1][1] - places[0][1] == 16 + GAP and places[2][0] - places[0][0] == 24 + GAP


def test_titles_take_room_only_if_there_are_any():
    with_titles, without = (
        make_sheet([[flat(1)]], columns, ["a long label " * 5]) for columns in (["x"], [])
    )
    assert with_titles.height > without.height and with_titles.width == without.width


def test_labels_leave_ink_left_of_the_images():
    sheet = np.asarray(make_sheet([[flat(1)]], [], ["a cat"]))
    left = np.argwhere((sheet == (1, 0, 200)).all(axis=2))[0][1]
    assert (sheet[:, : left - GAP] < 128).any()
    assert not (sheet[:, left - GAP : left] < 128).any()
    assert make_sheet([[flat(1)]], [], ["a much longer label"]).width > sheet.shape[1]


def test_long_titles_are_wrapped_above_the_images():
    one, many = (
        np.asarray(make_sheet([[flat(1)] * 2], [title, "x"], [""])) for title in ("a", "a cat " * 9)
    )
    tops = [np.argwhere((sheet == (1, 0, 200)).all(axis=2))[0][0] for sheet in (one, many)]
    assert tops[1] >= tops[0] + 2 * FONT_SIZE


def test_a_grid_has_each_label_below_its_image():
    images = [flat(10 * i) for i in range(5)]
    sheet = np.asarray(make_grid(images, ["", "x", "a label of many words", "", ""], 3)[0])
    places = [np.argwhere((sheet == (10 * i, 0, 200)).all(axis=2)) for i in range(5)]
    assert all(len(place) == 24 * 16 for place in places)
    tops = [tuple(place[0]) for place in places]
    assert tops[0][0] == tops[1][0] == tops[2][0] < tops[3][0] == tops[4][0]
    across = tops[1][1] - tops[0][1]
    assert tops[3][1] == tops[0][1] and across > 16 + GAP
    below = sheet[tops[1][0] + 24 : tops[3][0]]
    assert not (below[:, : tops[1][1]] < 128).any()  # the empty label
    assert (below[:, tops[1][1] : tops[1][1] + 16] < 128).any()
    assert (below[:, tops[2][1] + 16 : tops[2][1] + across - GAP] < 128).any()  # a wide one
    assert not (below[:, tops[2][1] + across - GAP :] < 128).any()
