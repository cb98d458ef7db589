"""The captioned images of a run."""

import itertools
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from flax_sd.config.modes import CAPTIONS, PROMPTS
from flax_sd.config.section import (
    IMAGES,
    MAY_DIFFER,
    SAME_PICTURES,
    TRAINING_ONLY,
    WHOLE_SET,
    Count,
    Formerly,
    OnResume,
    Positive,
    Rate,
    Section,
    Source,
    TokenLength,
    TrainingOnly,
    Unset,
    WholeSet,
    changed,
    marks,
    pairs,
    refuse_idle,
)
from flax_sd.files.paths import user_source

Separator = Annotated[str, Field(min_length=1)]


class DataConfig(Section):
    """The captioned images."""

    path: Annotated[Source, SAME_PICTURES, IMAGES] = "bundled:style"
    """A folder of captioned images, a datasets id or parquet. The id is owner/set, or
    owner/set:config; arrow files and bundled:style work too, and mode ddpm reads no captions."""
    stream: Annotated[bool, TRAINING_ONLY] = False
    """Read path shard by shard, for sets larger than the disk: a folder of .tar (as webdataset
    writes them), .parquet or .arrow files, or their paths or URLs, as shard-{000..123}.tar."""
    repeats: Annotated[Positive, TRAINING_ONLY, WHOLE_SET] = 1
    """How often an epoch shows each image of path."""
    folders: Annotated[
        dict[Source, Positive],
        pairs("PATH=REPEATS"),
        SAME_PICTURES,
        TRAINING_ONLY,
        WHOLE_SET,
    ] = {}
    """More images, each a source like path, with the repeats in an epoch, as {more/cats: 3}."""
    regularisation: Annotated[Source | None, SAME_PICTURES, TRAINING_ONLY, WHOLE_SET] = None
    """Class images, with which the model keeps its idea of the class. A source like path, of the
    class that path shows one of; an epoch shows as many of them as of the others."""
    class_prompt: Annotated[Annotated[str, Field(min_length=1)] | None, TRAINING_ONLY] = None
    """Prompt for class images, as "a cat": missing ones are generated into the folder
    regularisation before the run, with the defaults of sample.py."""
    class_images: Annotated[Positive, TRAINING_ONLY, Formerly("class_pictures")] = (
        100  # diffusers' --num_class_images
    )
    """Number of class images that class_prompt generates."""
    prior_weight: Annotated[Rate, TRAINING_ONLY] = 1.0
    """Weight of the losses of class images."""
    resolution: Annotated[Positive, IMAGES] = 512
    """Side of the training images, in pixels; a multiple of 8. Models have their own: 512, 768 or
    1024 for SDXL. The memory that a step needs beside the weights grows with its square or
    faster."""
    buckets: Annotated[Literal["none", "area", "kohya"], IMAGES] = "none"
    """Shapes of the training images. none is the square; area, up to 17 shapes of about its area,
    by OneTrainer's rule; kohya, those of sd-scripts. A batch holds images of one shape."""
    bucket_step: Annotated[Positive | None, Unset(lambda own: _bucket_step(own.resolution))] = None
    """Step of the sides of buckets, in pixels; unset is 64, or an eighth of a resolution below
    512."""
    bucket_min: Annotated[Positive | None, Unset(lambda own: min(256, own.resolution // 2))] = None
    """Shortest side of kohya's buckets; unset is 256, or half the resolution if that is less."""
    bucket_max: Annotated[Positive | None, Unset(lambda own: 2 * own.resolution)] = None
    """Longest side of kohya's buckets; unset is twice the resolution."""
    bucket_upscale: bool = True
    """Enlarge small images to a bucket of kohya's; off, they are cropped to whole steps, and every
    such size is a shape and a program of its own."""
    center_crop: bool = False
    """Crop each image at its centre, not at a random offset each time."""
    random_flip: Annotated[bool, TRAINING_ONLY, IMAGES] = False
    """Mirror a random half of the images, each time anew."""
    interpolation: Literal["lanczos", "bicubic", "bilinear", "box", "hamming", "nearest"] = (
        "lanczos"
    )
    """Filter that resizes images."""
    max_images: Annotated[Positive | None, TRAINING_ONLY, WHOLE_SET, Formerly("max_pictures")] = (
        None
    )
    """Use at most this many images, chosen by their names alone; unset uses all."""
    image_column: str = "image"
    """Column of a data set that holds the image."""
    caption_column: Annotated[str, CAPTIONS] = "text"
    """Column or metadata key that holds the caption, or a list of them: one is drawn each time."""
    template: Annotated[str, CAPTIONS, IMAGES] = "{}"
    """Template of every caption, as "sks, {}" for a trigger word. {} stands for the caption;
    captions of regularisation are not changed."""
    # Diffusers reads as many, and what more would change every run and its images.
    max_token_length: Annotated[TokenLength, PROMPTS] = 75
    """Number of tokens of a caption that are read, in chunks of 75 as sd-scripts does; 150 and 225
    make every caption and prompt of the run 2 or 3 chunks long, and each step slower."""
    wildcards: Annotated[bool, CAPTIONS] = False
    """Choose one of {a|b|c} in a caption at random each time; off, the braces are text."""
    shuffle_tags: Annotated[bool, TRAINING_ONLY, CAPTIONS] = False
    """Shuffle the tags of a caption each time."""
    keep_tags: Annotated[Count, TRAINING_ONLY, CAPTIONS] = 0
    """Number of first tags that are not shuffled and never dropped."""
    tag_dropout: Annotated[float, Field(ge=0, lt=1), TRAINING_ONLY, CAPTIONS] = 0.0
    """Probability that one of the other tags is dropped, each time anew."""
    tag_separator: Annotated[Separator, CAPTIONS] = ","
    """Separator of tags."""
    keep_separator: Annotated[Separator | None, CAPTIONS] = (
        None  # in most captions it would be text
    )
    """Separator in a caption, as "|||", after the tags that are not shuffled and never dropped; a
    second one stands before tags that stay at the end. Captions without it follow keep_tags. A
    comma (tag_separator) replaces it."""
    group_separator: Annotated[Separator | None, CAPTIONS] = None  # likewise
    """Separator, as ";;;", between tags that are moved and dropped as one. A comma (tag_separator)
    replaces it."""
    mask: Annotated[Literal["none", "file", "alpha"], TRAINING_ONLY, WHOLE_SET, PROMPTS] = "none"
    """Train on a part of each image only: the white part of 1-masklabel.png beside 1.jpg (file), or
    the opaque part of the image itself (alpha). An image without either is used whole, and held-out
    losses are of whole images."""
    # What a mask hides is not learned.
    unmasked_weight: Annotated[float, Field(ge=0, le=1), TRAINING_ONLY] = 0.0
    """Smallest weight in the loss of the masked-out part, of 1."""
    # On, a crop with a sliver of the mask would count as a whole.
    mask_normalised: Annotated[bool, TRAINING_ONLY] = False
    """Divide an image's loss by its mean weight, so that small masks count as much as large
    ones."""
    background: str = "white"
    """Background colour of transparent images."""
    on_bad: Annotated[Literal["skip", "stop"], MAY_DIFFER] = "skip"
    """Action for images that cannot be read: skip (each is named) or stop."""
    workers: Annotated[Positive, MAY_DIFFER] = 2
    """Number of threads that decode images ahead."""
    encode_once: Annotated[bool, WHOLE_SET, CAPTIONS] = True
    """Encode images and captions once, into the user's cache folder, and free the VAE and the text
    encoder, 0.8 GB in float32, or 3.6 GB of SDXL; off, or where the crop offset is random, they are
    encoded at each step."""
    held_out: Annotated[Source | None, OnResume("data.val_loss.hash"), TRAINING_ONLY] = None
    """Validation images with captions (a source like path): their loss is evaluated before and
    after the run."""
    held_out_share: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None, TRAINING_ONLY, WHOLE_SET, IMAGES
    ] = None
    """Share of the images of path that is held out for validation. It is instead of held_out. The
    content of an image decides, so it stays held out when files are added, removed or renamed, and
    copies of one image are always on the same side."""
    held_out_base: Annotated[Source | None, OnResume("data.base_loss.hash"), TRAINING_ONLY] = None
    """Captioned images of what the model could generate before: a rising loss shows what the run
    makes it forget."""

    def for_evaluation(self, path: str | None = None) -> "DataConfig":
        """Returns the options of images whose loss is evaluated, the same in every run.

        Each is cropped in the centre and not changed otherwise; the caption options stay.

        Args:
          path: of images of their own, which may be held out of other data; None for those that
            are trained on.
        """
        fields = type(self).model_fields
        plain = {name: fields[name].default for name in marks(type(self), TrainingOnly)}
        own = {} if path is None else {"path": path}
        return self.model_copy(update={**plain, "center_crop": True, **own})

    @pydantic.field_validator("folders", mode="before")
    @classmethod
    def _each_folder_once(cls, value: object) -> object:
        """Raises ValueError for two spellings of one path: one key, and the other's repeats
        lost."""
        names = [user_source(name) for name in value] if isinstance(value, dict) else []
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise ValueError(f"has {', '.join(twice)} twice: leave one")
        return value

    @pydantic.field_validator("template")
    @classmethod
    def _holds_the_caption(cls, value: str) -> str:
        if "{}" not in value:
            raise ValueError("must hold {}, where the caption goes")
        return value

    @pydantic.model_validator(mode="after")
    def _no_idle_options(self) -> "DataConfig":
        if self.held_out is not None and self.held_out_share is not None:
            raise ValueError("held_out and held_out_share both say what is held out: take one")
        tags = self.shuffle_tags or self.tag_dropout > 0
        kohya = self.buckets == "kohya"
        meaning = {"bucket_step": self.buckets != "none", "bucket_upscale": kohya}
        meaning |= dict.fromkeys(("bucket_min", "bucket_max"), kohya and self.bucket_upscale)
        meaning["prior_weight"] = meaning["class_prompt"] = self.regularisation is not None
        meaning["class_images"] = self.class_prompt is not None
        meaning |= dict.fromkeys(("unmasked_weight", "mask_normalised"), self.mask != "none")
        meaning["keep_tags"] = tags
        meaning["tag_separator"] = bool(tags or self.keep_separator or self.group_separator)
        refuse_idle(self, meaning)
        _refuse_mixed_separators(self)
        if self.stream:
            _refuse_beside_stream(self)
        if self.bucket_min and self.bucket_max and self.bucket_min > self.bucket_max:
            raise ValueError(
                f"bucket_min {self.bucket_min} is more than bucket_max {self.bucket_max}"
            )
        return self

    @pydantic.field_validator("resolution", "bucket_step")
    @classmethod
    def _multiple_of_8(cls, value: int | None) -> int | None:
        if value is not None and value % 8:
            raise ValueError(
                f"must be a multiple of 8 (the VAE's stride); near it: {value // 8 * 8 or 8}"
            )
        return value


def _bucket_step(resolution: int) -> int:
    """Returns 64 from 512 on, as all trainers do, since UNets halve latents three times; below, an
    eighth of the resolution, for as many shapes."""
    return 64 if resolution >= 512 else max(8, resolution // 8 // 8 * 8)


def _refuse_mixed_separators(data: DataConfig) -> None:
    """Raises ValueError if one separator contains another, or the template contains one."""
    names = ("keep_separator", "tag_separator", "group_separator")  # as they are looked for
    given = {name: mark for name in names if (mark := getattr(data, name))}
    problems = [
        f"{later} {given[later]!r} holds {earlier} {given[earlier]!r}; take another"
        for earlier, later in itertools.combinations(given, 2)
        if given[earlier] in given[later]
    ]
    problems += [
        f"template {data.template!r} holds {name} {given[name]!r}; leave it out: the template's "
        "own text stays where it is"
        for name in given
        if name != "tag_separator" and given[name] in data.template
    ]
    if problems:
        raise ValueError("; ".join(problems))


def _refuse_beside_stream(data: DataConfig) -> None:
    whole = [name for name in changed(data) if name in marks(type(data), WholeSet)]
    if whole:
        raise ValueError(
            f"{', '.join(whole)} beside stream, which has one shard at hand and never the whole set"
        )
