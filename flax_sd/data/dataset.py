"""The opened data set: each image was read once, and each unreadable one is named."""

import hashlib
import json
import pathlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Float32, Int32
from PIL import Image, ImageColor

from flax_sd.config import DataConfig
from flax_sd.data import buckets, captions
from flax_sd.data.images import image_file
from flax_sd.data.probe import Seen, look, open_mask, read
from flax_sd.data.sources import folder as folders
from flax_sd.data.sources import tables
from flax_sd.data.sources.records import Bad, Listing, Record
from flax_sd.data.transform import PixelTransform, transform_of
from flax_sd.errors import UserError, listed, shown

BUNDLED = pathlib.Path(__file__).parents[1] / "bundled"


class Stopped(Exception):
    """The caller no longer needs the images that are being opened."""


class Images:
    """Captioned images by index.

    Attributes:
      seen: what the look at each before the run found.
      fits: how each comes to its shape, and `shapes` are these.
      bad: those that were left out, and why.
      unused: files of the folder that are no part of the set, and why.
      captioned: whether captions were looked for; otherwise each is empty.
      by_folder: which of them have the name of their folder as caption.
      randomly_cropped: names of those with a random crop each time.
    """

    def __init__(
        self,
        cfg: DataConfig,
        found: list[Record],
        seen: list[Seen],
        bad: list[Bad],
        unused: list[Bad],
        *,
        captioned: bool = True,
    ):
        self.captioned = captioned
        self.cfg, self.bad, self.unused, self._found = cfg, bad, unused, found
        self.seen, self.names = tuple(seen), tuple(record.name for record in found)
        self.fits = tuple(buckets.fit(cfg, each.size) for each in seen)
        self.shapes = tuple(fit.shape for fit in self.fits)
        self.by_folder = tuple(record.by_folder for record in found)
        self.prior = tuple(record.prior for record in found)
        self._wording_of_prior = cfg.model_copy(update={"template": "{}"})
        self.repeats = balance_repeats([record.repeats for record in found], self.prior)
        self.weights = tuple(cfg.prior_weight if prior else 1.0 for prior in self.prior)
        pairs = zip(self.names, self.fits, strict=True)
        spare = [name for name, fit in pairs if fit.resized != fit.shape]
        self.randomly_cropped = () if cfg.center_crop else tuple(spare)

    def __len__(self) -> int:
        return len(self._found)

    def subset(self, indices: Sequence[int], cfg: DataConfig) -> "Images":
        """Selects images, without opening them again, under other options for the same path."""
        found, seen = [self._found[i] for i in indices], [self.seen[i] for i in indices]
        return Images(cfg, found, seen, [], [], captioned=self.captioned)

    def captions(self, i: int) -> tuple[str, ...]:
        """Returns all captions of image i, without anything random."""
        return tuple(
            captions.fixed_caption(self._wording(i), text) for text in self._found[i].captions
        )

    def caption(self, i: int, *, seed: int, sample: int) -> str:
        """Returns the caption that sample number `sample` draws for image i."""
        listed = self._found[i].captions
        chosen = listed[image_file.draw(seed, sample).caption % len(listed)]
        return captions.random_caption(self._wording(i), chosen, seed=seed, sample=sample)

    def _wording(self, i: int) -> DataConfig:
        """Returns the caption options; class images get no trigger word."""
        return self._wording_of_prior if self.prior[i] else self.cfg

    def load(self, i: int, *, seed: int, sample: int) -> Float[np.ndarray, "h w 3"]:
        """Reads image i, cropped and mirrored as sample number `sample` draws.

        Raises:
          UserError: the image cannot be read any more.
        """
        return self.crop(i, self.transform(i, image_file.draw(seed, sample)))

    def transform(self, i: int, draw: image_file.Draw) -> PixelTransform:
        """Returns the transform of image i for these random numbers."""
        return transform_of(self.cfg, self.fits[i], draw)

    def transforms(self, i: int) -> list[PixelTransform]:
        """Returns the transforms that a sample may draw, if its crop is not random."""
        flips = (self.transform(i, image_file.Draw(0, flip, 0, 0)) for flip in (0, 1))
        return list(dict.fromkeys(flips))

    def time_ids(self, i: int, *, seed: int, sample: int) -> Int32[np.ndarray, "6"]:
        """Returns the sizes and the crop of image i as sample number `sample` draws them.

        See `PixelTransform.time_ids`.
        """
        return self.transform(i, image_file.draw(seed, sample)).time_ids(self.seen[i].size)

    def mask(self, i: int, *, seed: int, sample: int) -> Float32[np.ndarray, "h w"] | None:
        """Returns the mask of image i in [0, 1], cropped and mirrored like the image; None without
        data.mask.

        It is 1 everywhere for an image that has none.

        Raises:
          UserError: it cannot be read any more.
        """
        return self.crop_mask(i, self.transform(i, image_file.draw(seed, sample)))

    def crop_mask(self, i: int, transform: PixelTransform) -> Float32[np.ndarray, "h w"] | None:
        """Returns the mask of image i under a given transform of the image."""
        if self.cfg.mask == "none":
            return None
        try:
            mask = open_mask(self._found[i], self.cfg)
        except image_file.BadImage as error:
            raise self._changed(i, error) from error
        whole = Image.new("L", self.seen[i].size, "white")
        return (transform.pixels(self._unchanged(i, mask or whole)) + 1) / 2

    def fingerprint(self) -> str:
        """Returns the first 16 digits of the SHA-256 of all names, files, captions and masks."""
        return _sha256([*self.digests().items()])

    def digests(self) -> dict[str, str]:
        """Returns, by name, 16 digits of the SHA-256 of each image's file, captions and mask."""
        by_name: dict[str, list[object]] = {}  # a metadata file may name an image several times
        for record, seen in zip(self._found, self.seen, strict=True):
            made = [seen.digest, record.captions, seen.mask and seen.mask.digest]
            by_name.setdefault(record.name, []).append(made)
        return {name: _sha256(listed) for name, listed in by_name.items()}

    def crop(self, i: int, transform: PixelTransform) -> Float[np.ndarray, "h w 3"]:
        """Reads image i and makes its pixels.

        Raises:
          UserError: the image cannot be read any more, or is another.
        """
        return transform.pixels(self._unchanged(i, self._decoded(i, transform.background)))

    def _unchanged(self, i: int, image: Image.Image) -> Image.Image:
        """Returns image i, or its mask; raises UserError if its size changed since the run
        began."""
        if image.size != self.seen[i].size:
            then, now = ("{} x {}".format(*size) for size in (self.seen[i].size, image.size))
            raise UserError(
                f"{self.names[i]} was {then} pixels when the run began and is {now} now: put the "
                "file back, or begin a new run"
            )
        return image

    def original(self, i: int) -> Image.Image:
        """Reads image i, upright and whole.

        Raises:
          UserError: the image cannot be read any more.
        """
        return self._decoded(i, self.cfg.background)

    def _decoded(self, i: int, background: str) -> Image.Image:
        try:
            return image_file.decode(read(self._found[i]), background)
        except image_file.BadImage as error:
            raise self._changed(i, error) from error

    def _changed(self, i: int, error: image_file.BadImage) -> UserError:
        return UserError(
            f"{self.names[i]} could be read when the run began and cannot be now ({error}): "
            "put the file back and run the same command again to resume"
        )


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def balance_repeats(repeats: Sequence[int], prior: Sequence[bool]) -> tuple[int, ...]:
    """Returns the repeats, balanced so that an epoch shows as many prior images as others.

    `DreamBoothDataset` of sd-scripts: each has its own until there are enough, and where there are
    not, one more by turns. Those past enough have none.
    """
    own = [i for i, is_prior in enumerate(prior) if is_prior]
    wanted = sum(repeats) - sum(repeats[i] for i in own)
    even, missing = list(repeats), wanted
    for i in own:
        even[i] = repeats[i] if missing > 0 else 0
        missing -= even[i]
    for turn in range(max(0, missing) if own else 0):
        even[own[turn % len(own)]] += 1
    return tuple(even)


def open_images(cfg: DataConfig, *, captioned: bool = True, option: str = "data.path") -> Images:
    """Finds the images of `cfg.path` and opens each once, so that none fails in mid-run.

    Args:
      captioned: whether they need captions; otherwise every image is taken, and no caption read.
      option: where the user named that path.

    Raises:
      UserError: nothing usable is there, or with `on_bad: stop` an image cannot be read.
    """
    try:
        ImageColor.getrgb(cfg.background)
    except ValueError as error:
        right = "a name like white, or #rrggbb"
        raise UserError(f"data.background {cfg.background!r} is not a colour: {right}") from error
    listing = _all(cfg, cfg.caption_column if captioned else None, option)
    return open_listing(cfg, listing, captioned=captioned)


def open_listing(
    cfg: DataConfig,
    listing: Listing,
    *,
    captioned: bool = True,
    stop: threading.Event | None = None,
) -> Images:
    """Opens each image of a listing once; with `data.stream` all of them may be unusable.

    Args:
      stop: when to give up.

    Raises:
      Stopped: it was set.
      UserError: as `open_images`.
    """
    looks = []
    with ThreadPoolExecutor(cfg.workers) as pool:
        for found in pool.map(lambda record: look(record, cfg), listing.records):
            if stop is not None and stop.is_set():
                raise Stopped  # which takes back what the threads have not begun
            looks.append(found)
    pairs = list(zip(listing.records, looks, strict=True))
    good = [(record, seen) for record, seen in pairs if isinstance(seen, Seen)]
    bad = listing.bad + [Bad(record.name, why) for record, why in pairs if isinstance(why, str)]
    if bad and (cfg.on_bad == "stop" or not (good or cfg.stream)):
        header = f"{cfg.path}: {len(bad)} of {len(bad) + len(good)} images cannot be used"
        way_out = " (data.on_bad=skip leaves them out)" if good else ""
        lines = [f"{name}: {reason}" for name, reason in bad]
        raise UserError(listed(f"{header}{way_out}:", lines))
    found, seen = [record for record, _ in good], [seen for _, seen in good]
    _check_masks(cfg, seen)
    return Images(cfg, found, seen, bad, listing.unused, captioned=captioned)


def _check_masks(cfg: DataConfig, seen: list[Seen]) -> None:
    """Raises UserError if data.mask would hide nothing in any image."""
    if cfg.mask == "none" or any(each.mask and each.mask.share < 1 for each in seen):
        return
    right = {
        "file": "has a mask with a black part: 1-masklabel.png beside 1.jpg",
        "alpha": "is transparent anywhere",
    }
    raise UserError(
        f"data.mask {cfg.mask} changes nothing: none of the {len(seen)} images of {cfg.path} "
        f"{right[cfg.mask]}"
    )


def _some(found: list[Record], count: int) -> list[Record]:
    """Chooses `count` records, in their order; a set that grows keeps most earlier choices."""
    chosen = sorted(found, key=lambda r: hashlib.sha256(r.name.encode()).digest())[:count]
    names = {record.name for record in chosen}
    return [record for record in found if record.name in names]


def _all(cfg: DataConfig, caption_column: str | None, option: str) -> Listing:
    """Lists data.path and the other folders; records of these carry the folder in their name."""
    listing = _times(_list(cfg, caption_column, cfg.path, option), cfg.repeats)
    for path, repeats in cfg.folders.items():
        further = _times(_list(cfg, caption_column, path, "data.folders"), repeats)
        _join(listing, path, further)
    if cfg.max_images is not None:  # of its own images: those of the class follow their number
        listing = listing._replace(records=_some(listing.records, cfg.max_images))
    if (path := cfg.regularisation) is not None:
        further = _list(cfg, caption_column, path, "data.regularisation")
        prior = [record._replace(prior=True) for record in further.records]
        _join(listing, path, further._replace(records=prior))
    return listing


def _join(listing: Listing, path: str, further: Listing) -> None:
    """Adds the records of another folder to the listing."""
    place = shown(path)
    listing.records.extend(r._replace(name=f"{place}/{r.name}") for r in further.records)
    listing.bad.extend(bad._replace(name=f"{place}/{bad.name}") for bad in further.bad)
    listing.unused.extend(file._replace(name=f"{place}/{file.name}") for file in further.unused)


def _times(listing: Listing, repeats: int) -> Listing:
    """Multiplies the repeats of a listing."""
    records = [record._replace(repeats=repeats * record.repeats) for record in listing.records]
    return listing._replace(records=records)


def _list(cfg: DataConfig, caption_column: str | None, path: str, option: str) -> Listing:
    folder = _resolve(path)
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{option} {shown(path)} cannot be read: {why}") from error
    # In a folder that exists, a missing one is a typing error, not a hub id.
    is_id = tables.HUB_ID.fullmatch(path) and not folder.exists() and not folder.parent.is_dir()
    if is_id or tables.is_table(folder):
        return tables.list_table(str(folder), cfg.image_column, caption_column)
    if not folder.is_dir():
        found = "is a file, not" if folder.exists() else f"is not there: {option} names"
        what = "images" if caption_column is None else "captioned images"
        right = f"a folder of {what}, a .parquet or .arrow file, or a datasets id"
        raise UserError(f"{shown(path)} {found} {right}")
    return folders.list_folder(folder, caption_column)


def _resolve(path: str) -> pathlib.Path:
    """Returns the folder that `path` names; "bundled:style" lies in the package."""
    if not path.startswith("bundled:"):
        return pathlib.Path(path)
    folder = BUNDLED / path.removeprefix("bundled:")
    if not folder.is_dir():
        known = sorted(f"bundled:{p.parent.name}" for p in BUNDLED.glob("*/metadata.jsonl"))
        raise UserError(f"there is no {path}; bundled are {', '.join(known)}")
    return folder
