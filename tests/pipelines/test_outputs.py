"""Images as arrays and as PIL's, and what NaN does."""

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor

from flax_sd.errors import UserError
from flax_sd.pipelines.outputs import check_output, in_form, to_uint8


def images(channels):
    return np.linspace(0, 1, 2 * 3 * 5 * channels, dtype=np.float32).reshape(2, 3, 5, channels)


def test_an_unknown_output_is_refused():
    with pytest.raises(UserError, match="output 'png' is not one of uint8, float, latents, pil"):
        check_output("png")


def test_images_are_rounded_and_nan_is_refused():
    values = images(3)
    assert in_form(values, "float") is values
    assert np.array_equal(in_form(values, "uint8"), np.round(values * 255).astype(np.uint8))
    values[1, 0, 0, 0] = np.nan
    for form in ("uint8", "pil"):
        with pytest.raises(UserError, match=r"images \[1\] are NaN"):
            in_form(values, form)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pil_images_are_those_of_diffusers(channels, mode):
    values = images(channels)
    ours, theirs = in_form(values, "pil"), VaeImageProcessor.numpy_to_pil(values)
    assert [image.mode for image in ours] == [mode] * 2 and ours[0].size == (5, 3)
    assert [image.tobytes() for image in ours] == [image.tobytes() for image in theirs]
    assert np.array_equal(np.asarray(ours[1]).reshape(3, 5, channels), to_uint8(values)[1])
