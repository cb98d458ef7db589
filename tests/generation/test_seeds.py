"""U5: a seed of -1 is drawn once, and the same command again finds it."""

from flax_sd.generation.batches import images_of
from flax_sd.generation.prompts import Row
from flax_sd.generation.seeds import settled_rows

ROWS = [
    Row(prompt="a", seed=5),
    Row(prompt="b", seed=-1, images_per_prompt=2),
    Row(prompt="c", seed=-1),
]


def test_rows_share_a_new_seed(tmp_path):
    fixed, drawn, same = settled_rows(ROWS, tmp_path / "nowhere")
    assert fixed.seed == 5 and drawn.seed == same.seed
    assert settled_rows(ROWS, tmp_path)[1].seed != drawn.seed


def test_images_that_are_there_say_which_it_was(tmp_path):
    drawn = settled_rows(ROWS, tmp_path)
    (tmp_path / images_of(drawn)[0].name).touch()  # of the row that has a seed of its own
    (tmp_path / "00001_seedling.png").touch()
    assert settled_rows(ROWS, tmp_path)[1].seed != drawn[1].seed
    (tmp_path / images_of(drawn)[1].name).touch()
    assert settled_rows(ROWS, tmp_path) == drawn
