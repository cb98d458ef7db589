from flax_sd.data import open_pictures, summary


def test_summary(folder, config):
    (folder / "1.png").write_bytes(b"torn")
    (folder / "3.png").write_bytes(b"")
    (folder / "4.png").unlink()
    assert summary(open_pictures(config(folder))).splitlines() == [
        f"{folder}: 2 pictures, 2 captions",
        "  0.png: 'caption 0'",
        "  2.png: 'caption 2'",
        "left out, because they cannot be used (3):",
        "  1.png: not a picture that Pillow can read",
        "  3.png: the file is empty",
        "  4.png: no such file or directory",
    ]


def test_summary_shows_three_captions_and_counts_all(folder, config):
    (folder / "metadata.jsonl").unlink()
    for i in range(5):
        (folder / f"{i}.txt").write_text(f"caption {i}\nanother\n")
    lines = summary(open_pictures(config(folder))).splitlines()
    assert lines[0].endswith("5 pictures, 10 captions")
    assert lines[1:] == [f"  {i}.png: 'caption {i}'" for i in (0, 2, 4)]
