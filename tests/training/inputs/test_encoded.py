"""What moments and states are kept under."""

from PIL import Image

from flax_sd.config import DataConfig
from flax_sd.data import open_images
from flax_sd.data.images.image_file import Fit
from flax_sd.training.inputs import encoded


def test_what_was_kept_goes_by_how_files_are_decoded(tmp_path, monkeypatch):
    """F9: a file whose pixels are read otherwise than before is encoded anew."""
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    (tmp_path / "1.txt").write_text("a cat")
    images = open_images(DataConfig(path=str(tmp_path), resolution=8))

    def key():
        store = encoded.Store(tmp_path)
        return encoded.EncodedImages(images, "an autoencoder", store).key(
            0, images.transforms(0)[0]
        )

    before = key()
    assert key() == before
    monkeypatch.setattr(encoded, "code_version", lambda: "another")
    assert key() != before


def test_a_transform_with_any_other_part_has_another_key(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    (tmp_path / "1.txt").write_text("a cat")
    images = open_images(DataConfig(path=str(tmp_path), resolution=8))
    reader = encoded.EncodedImages(images, "an autoencoder", encoded.Store(tmp_path))
    (one,) = images.transforms(0)
    others = [
        one._replace(background="red"),
        one._replace(fit=Fit((9, 8), (8, 8))),
        one._replace(fit=Fit((8, 8), (8, 4))),
        one._replace(interpolation="box"),
        one._replace(left=1),
        one._replace(top=1),
        one._replace(mirrored=True),
    ]
    assert {n for t in others for n in one._fields if getattr(t, n) != getattr(one, n)} == {
        *one._fields
    }
    assert len({reader.key(0, transform) for transform in (one, *others)}) == len(others) + 1


def test_mirrored_images_are_kept_where_they_are_shown(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    (tmp_path / "1.txt").write_text("a cat")
    cfg = DataConfig(path=str(tmp_path), resolution=8, random_flip=True)
    assert [t.mirrored for t in open_images(cfg).transforms(0)] == [False, True]
