import functools
import hashlib
import http.server
import threading

import datasets
import fsspec
import pytest

from flax_sd.data.dataset import Stopped
from flax_sd.data.shards import Shard, find_all, find_shards, open_shard, read
from flax_sd.errors import UserError
from flax_sd.files import retry
from tests.data.made_shards import png, samples, write_tar


@pytest.fixture
def shards(tmp_path):
    """A folder of three, and other files."""
    folder = tmp_path / "shards"
    for k in range(3):
        write_tar(folder / f"s-{k:02d}.tar", samples([2 * k, 2 * k + 1]))
    (folder / "readme.txt").write_text("x")
    return folder


@pytest.fixture
def server(shards):
    """The folder's URL, and what its server answered last; the first answers may be errors."""
    errors = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if errors:
                self.send_error(errors.pop())
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}", errors
        serving.shutdown()
        thread.join()


def names(path):
    return [shard.name.rsplit("/", 1)[-1] for shard in find_shards(str(path))]


def test_shards_are_found_by_folder_name_stars_and_braces(shards):
    every = ["s-00.tar", "s-01.tar", "s-02.tar"]
    assert names(shards) == names(shards.parent) == names(shards / "*.tar") == every
    assert names(shards / "s-{00..02}.tar") == names(shards / "s-0[0-2].tar") == every
    assert names(shards / "s-{02,00}.{tar,tar}") == ["s-00.tar", "s-02.tar"]
    assert names(shards / "s-01.tar") == ["s-01.tar"]
    assert find_shards(str(shards))[0].size == (shards / "s-00.tar").stat().st_size


def test_what_names_no_shards_is_refused(shards, tmp_path):
    with pytest.raises(UserError, match="s-03.tar is not there"):
        find_shards(str(shards / "s-{00..03}.tar"))
    with pytest.raises(UserError, match="names no shards.*\\.parquet"):
        find_shards(str(shards / "*.txt"))
    with pytest.raises(UserError, match="does not list its files"):
        find_shards("http://127.0.0.1/*.tar")
    with pytest.raises(UserError, match="cannot be listed"):
        find_shards("nothing://x/*.tar")


def test_a_shard_of_another_size_is_refused(shards):
    (shard, *_) = find_shards(str(shards))
    (shards / "s-00.tar").write_bytes(b"short")
    with pytest.raises(UserError, match=f"s-00.tar had {shard.size} bytes .* has 5 now"):
        read(shard)


def test_a_shard_that_is_gone_is_named(shards):
    (shard, *_) = find_shards(str(shards))
    (shards / "s-00.tar").unlink()
    with pytest.raises(UserError, match="s-00.tar cannot be read .*once it can be read"):
        read(shard)


def test_a_server_that_is_away_is_asked_again(server, shards, monkeypatch):
    slept = []
    monkeypatch.setattr(retry.time, "sleep", slept.append)
    url, errors = server
    first, *_ = find_shards(f"{url}/s-{{00..02}}.tar?signed=x")
    errors += [503, 429]
    assert read(first) == (shards / "s-00.tar").read_bytes() and slept == [1, 2]
    with pytest.raises(UserError, match="HTTP 404"):
        read(Shard(f"{url}/s-09.tar", None))
    errors += [500] * 3
    with pytest.raises(UserError, match="HTTP 500"):
        read(first, pauses=(1, 2))
    with pytest.raises(UserError, match="127.0.0.1:9/s.tar cannot be read"):
        read(Shard("http://127.0.0.1:9/s.tar", None), pauses=(1,))


def test_other_file_systems_are_those_of_fsspec(shards):
    memory = fsspec.filesystem("memory")
    for name in ("s-00.tar", "s-01.tar", "readme.txt"):
        memory.pipe_file(f"/made/{name}", (shards / name).read_bytes())
    assert names("memory://made") == names("memory://made/*.tar") == ["s-00.tar", "s-01.tar"]
    shard = find_shards("memory://made")[1]
    assert read(shard) == (shards / "s-01.tar").read_bytes() and shard.size
    with pytest.raises(UserError, match="s-07.tar cannot be read"):
        read(Shard("memory://made/s-07.tar", None))


def test_images_of_a_shard_are_opened_and_bad_ones_named(tmp_path, config):
    path = write_tar(tmp_path / "s.tar", {**samples([1, 2]), "3.png": b"torn", "3.txt": "x"})
    (shard,) = find_shards(str(path))
    images = open_shard(shard, config(path, stream=True))
    assert images.names == ("001.png", "002.png") and images.cfg.path == str(path)
    assert images.captions(1) == ("caption 2",)
    assert images.bad == [("3.png", "not an image that Pillow can read")]
    with pytest.raises(UserError, match="3.png"):
        open_shard(shard, config(path, stream=True, on_bad="stop"))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tables_are_shards_and_leave_no_copy_on_the_disk(tmp_path, config, kind):
    cells = [{"bytes": png(i), "path": None} for i in range(3)]
    table = datasets.Dataset.from_dict({"image": cells, "text": ["a", "b", "c"]})
    table = table.cast_column("image", datasets.Image())
    if kind == "parquet":
        table.to_parquet(tmp_path / "s.parquet")
    else:
        table.save_to_disk(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    (shard,) = find_shards(str(tmp_path))
    images = open_shard(shard, config(tmp_path, stream=True))
    assert [images.captions(i) for i in range(3)] == [("a",), ("b",), ("c",)]
    assert images.load(2, seed=0, sample=0).shape == (8, 8, 3)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_columns_are_those_of_the_config(tmp_path, config, kind):
    path, wanted, other = tmp_path / f"s.{kind}", png(1), png(2)
    if kind == "tar":  # which has no columns of images
        write_tar(path, {"1.png": wanted, "1.json": {"text": "a dog", "words": "a cat"}})
    else:
        columns = {"text": ["a dog"], "words": ["a cat"]}
        for name, content in {"image": other, "photo": wanted}.items():
            columns[name] = [{"bytes": content, "path": None}]
        table = datasets.Dataset.from_dict(columns)
        table.to_parquet(path)
    cfg = config(path, stream=True, image_column="photo", caption_column="words")
    images = open_shard(find_shards(str(path))[0], cfg)
    assert images.captions(0) == ("a cat",)
    assert images.seen[0].digest == hashlib.sha256(wanted).hexdigest()


def test_a_shard_of_nothing_good_is_no_error(tmp_path, config):
    for name in ("s.tar", "s.parquet", "s.arrow"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        shard = Shard(str(tmp_path / name), None)
        images = open_shard(shard, config(tmp_path, stream=True))
        assert not len(images) and images.bad[0].name == shard.name
    table = datasets.Dataset.from_dict({"photo": [1]})
    table.to_parquet(tmp_path / "s.parquet")
    images = open_shard(Shard(str(tmp_path / "s.parquet"), None), config(tmp_path, stream=True))
    assert "no column 'image'" in images.bad[0].reason


def test_opening_gives_up_when_nobody_waits(shards, config):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        open_shard(find_shards(str(shards))[0], config(shards, stream=True), stop=stop)


def test_of_splits_the_train_split_is_taken_and_all_else_is_named(tmp_path):
    """F2."""
    for name in ("train-0", "train-1", "test-0"):
        write_tar(tmp_path / f"my [set]/{name}.tar", samples([1]))
    folder = tmp_path / "my [set]"
    (folder / "notes.txt").write_text("x")
    (folder / "gone.tar").symlink_to("nowhere")
    (folder / ".DS_Store").write_text("x")
    found = find_all(str(folder))
    assert [shard.name for shard in found.shards] == [f"{folder}/train-{i}.tar" for i in range(2)]
    why = {bad.name.rsplit("/", 1)[-1]: bad.reason for bad in found.unused}
    assert "test split" in why["test-0.tar"] and "no shard" in why["notes.txt"]
    assert "not there" in why["gone.tar"] and len(why) == 3
    assert names(folder / "test-0.tar") == ["test-0.tar"]
    plain = tmp_path / "plain"
    folder.rename(plain)
    assert names(plain / "*.tar") == ["train-0.tar", "train-1.tar"]
    assert names(plain / "{train,test}-0.tar") == ["test-0.tar", "train-0.tar"]
