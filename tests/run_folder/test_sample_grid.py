import io

from PIL import Image

from flax_sd.run_folder.sample_grid import grid_info, read_grid


def test_a_grid_says_where_its_images_are(tmp_path):
    places = [(6, 6, 8, 8, "a café"), (20, 6, 8, 8, "a dog")]
    path = tmp_path / "grid.png"
    Image.new("RGB", (34, 20)).save(path, pnginfo=grid_info(places))
    assert read_grid(path) == {"size": [34, 20], "images": [list(place) for place in places]}


def test_a_grid_of_an_earlier_version_or_a_broken_one_has_none(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    (tmp_path / "old.png").write_bytes(file.getvalue())
    (tmp_path / "broken.png").write_bytes(b"")
    assert read_grid(tmp_path / "old.png") == {"size": [4, 4], "images": []}
    assert read_grid(tmp_path / "broken.png") == {"size": [], "images": []}
