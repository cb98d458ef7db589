"""What moments and states are kept under."""

from PIL import Image

from flax_sd.config import DataConfig
from flax_sd.data import open_pictures
from flax_sd.training.inputs import encoded


def test_what_was_kept_goes_by_how_files_are_decoded(tmp_path, monkeypatch):
    """F9: a file whose pixels are read otherwise than before is encoded anew."""
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    (tmp_path / "1.txt").write_text("a cat")
    pictures = open_pictures(DataConfig(path=str(tmp_path), resolution=8))

    def key():
        store = encoded.Store(tmp_path)
        return encoded.EncodedPictures(pictures, "an autoencoder", store).key(0, False)

    before = key()
    assert key() == before
    monkeypatch.setattr(encoded, "code_version", lambda: "another")
    assert key() != before
