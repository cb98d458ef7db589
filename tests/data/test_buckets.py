"""The lists of buckets and the choices that OneTrainer and sd-scripts 0.10.1 make."""

import pytest

from flax_sd.config import DataConfig
from flax_sd.data import buckets
from flax_sd.data.images.image_file import BadImage, Fit


def with_transposes(pairs):
    return sorted({*pairs, *((b, a) for a, b in pairs)})


AREA_512 = [(256, 960), (256, 1024), (320, 832), (320, 896), (384, 704), (448, 576), (448, 640)]
AREA_1024 = [(512, 2048), (576, 1792), (576, 1920), (640, 1600), (704, 1472), (768, 1344)]
KOHYA_512 = [(256, h) for h in (832, 896, 960, 1024)]
KOHYA_512 += [(320, 704), (320, 768), (384, 640), (448, 576), (512, 512)]
KOHYA_768 = [(w, 1024) for w in (256, 320, 384, 448, 512, 576)]
KOHYA_768 += [(576, 960), (640, 896), (704, 832), (768, 768)]


def test_the_lists_of_onetrainer():
    assert list(buckets.by_area(512, 64)) == with_transposes([*AREA_512, (512, 512)])
    more = [(832, 1280), (896, 1152), (1024, 1024)]
    assert list(buckets.by_area(1024, 64)) == with_transposes([*AREA_1024, *more])


def test_the_lists_of_sd_scripts():
    assert list(buckets.kohya(512, 256, 1024, 64)) == with_transposes(KOHYA_512)
    assert list(buckets.kohya(768, 256, 1024, 64)) == with_transposes(KOHYA_768)
    assert len(buckets.kohya(1024, 256, 2048, 64)) == 41
    assert len(buckets.kohya(1024, 256, 1024, 64)) == 25


def config(side, rule="kohya", **options):
    return DataConfig(resolution=side, buckets=rule, **options)


@pytest.mark.parametrize("side, count", [(512, 17), (1024, 41)])
def test_limits_that_are_unset(side, count):
    assert len(buckets.shapes(config(side))) == count


def test_limits_that_are_set():
    assert buckets.shapes(config(768, bucket_max=1024)) == buckets.kohya(768, 256, 1024, 64)
    assert buckets.shapes(config(512, bucket_min=300, bucket_max=700, bucket_step=64)) == (
        buckets.kohya(512, 320, 640, 64)
    )


@pytest.mark.parametrize(
    "size, at_512, at_1024",
    [
        ((1920, 1080), Fit((683, 384), (640, 384)), Fit((1365, 768), (1344, 768))),
        ((1080, 1920), Fit((384, 683), (384, 640)), Fit((768, 1365), (768, 1344))),
        ((640, 480), Fit((597, 448), (576, 448)), Fit((1195, 896), (1152, 896))),
        ((500, 500), Fit((512, 512), (512, 512)), Fit((1024, 1024), (1024, 1024))),
        ((300, 1200), Fit((256, 1024), (256, 1024)), Fit((512, 2048), (512, 2048))),
        ((3000, 2000), Fit((640, 427), (640, 384)), Fit((1248, 832), (1216, 832))),
        ((576, 448), Fit((576, 448), (576, 448)), Fit((1152, 896), (1152, 896))),
    ],
)
def test_the_choices_of_sd_scripts(size, at_512, at_1024):
    assert buckets.fit(config(512), size) == at_512
    assert buckets.fit(config(1024), size) == at_1024


@pytest.mark.parametrize(
    "size, at_512, at_1024",
    [
        ((1920, 1080), Fit((683, 384), (640, 384)), Fit((1365, 768), (1344, 768))),
        ((1080, 1920), Fit((384, 683), (384, 640)), Fit((768, 1365), (768, 1344))),
        ((640, 480), Fit((512, 384), (512, 384)), Fit((640, 480), (640, 448))),
        ((500, 500), Fit((500, 500), (448, 448)), Fit((500, 500), (448, 448))),
        ((300, 1200), Fit((256, 1024), (256, 1024)), Fit((300, 1200), (256, 1152))),
        ((3000, 2000), Fit((576, 384), (576, 384)), Fit((1248, 832), (1216, 832))),
    ],
)
def test_the_choices_of_sd_scripts_without_enlarging(size, at_512, at_1024):
    assert buckets.fit(config(512, bucket_upscale=False), size) == at_512
    assert buckets.fit(config(1024, bucket_upscale=False), size) == at_1024


def test_what_is_smaller_than_a_step_is_no_shape():
    with pytest.raises(BadImage, match="40 x 500 pixels: a side is shorter than the step of 64"):
        buckets.fit(config(512, bucket_upscale=False), (40, 500))


def test_the_choices_of_onetrainer_are_by_height_over_width():
    assert buckets.fit(config(512, "area"), (1920, 1080)).shape == (704, 384)
    # 1.25 and 1.0 are equally near to a height over width of 1.1427 by their shapes' own ratios.
    assert buckets.fit(config(512, "area"), (1000, 1150)).shape == (448, 576)
    assert buckets.fit(config(512, "area"), (1000, 1140)).shape == (512, 512)


def test_the_step_follows_a_small_resolution():
    steps = {side: config(side, "area").meant("bucket_step") for side in (32, 64, 256, 512, 1024)}
    assert steps == {32: 8, 64: 8, 256: 32, 512: 64, 1024: 64}
    small, large = buckets.shapes(config(64, "area")), buckets.shapes(config(512, "area"))
    assert [(8 * w, 8 * h) for w, h in small] == list(large)
    assert [(8 * w, 8 * h) for w, h in buckets.shapes(config(64))] == with_transposes(KOHYA_512)


def test_no_buckets_are_the_square():
    square = DataConfig(resolution=512)
    assert buckets.shapes(square) == ((512, 512),)
    assert buckets.fit(square, (1920, 1080)) == Fit((910, 512), (512, 512))


@pytest.mark.parametrize(
    "options",
    [
        {"bucket_step": 64},
        {"buckets": "area", "bucket_min": 256},
        {"buckets": "area", "bucket_upscale": False},
        {"buckets": "kohya", "bucket_upscale": False, "bucket_max": 768},
        {"buckets": "kohya", "bucket_min": 512, "bucket_max": 256},
        {"buckets": "area", "bucket_step": 12},
    ],
)
def test_options_without_effect_are_refused(options):
    with pytest.raises(ValueError, match="bucket_"):
        DataConfig(**options)
