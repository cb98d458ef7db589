from flax_sd.data.sources.records import Bad, caption_tuple, gathered


def test_caption_tuple():
    assert caption_tuple("a") == ("a",)
    assert caption_tuple(["a", "b"]) == ("a", "b")
    assert caption_tuple(float("nan")) == "nan, not a caption or a list of them"
    assert "half a surrogate pair" in caption_tuple(["a", "\ud83d"])


def test_files_of_one_reason_and_ending_are_gathered():
    """Thousands of them are no thousand lines."""
    files = [Bad("1.npz", "x"), Bad("2.NPZ", "x"), Bad("3.npz", "y"), Bad("4.txt", "x")]
    assert gathered(files) == [("1.npz and 1 more", "x"), ("3.npz", "y"), ("4.txt", "x")]
