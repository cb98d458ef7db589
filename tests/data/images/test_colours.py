import numpy as np
import pytest
from PIL import Image, ImageCms

from flax_sd.data.images.colours import BadProfile, to_srgb
from tests.data.images import profiles

RGB_PROFILES = {
    "Adobe RGB (1998)": (profiles.ADOBE, profiles.ADOBE_GAMMA),
    "Display P3": (profiles.P3, profiles.SRGB_CURVE),
    "ProPhoto RGB": (profiles.PROPHOTO, 1.8),
    "Linear sRGB": (profiles.SRGB, 1.0),
}


@pytest.mark.parametrize("name", RGB_PROFILES)
def test_rgb_profiles_are_followed(noise, name):
    """F9."""
    primaries, gamma = RGB_PROFILES[name]
    converted, told = to_srgb(noise, profiles.rgb(name, primaries, gamma))
    assert told == name and converted.mode == "RGB" and not converted.info
    expected = profiles.from_rgb(np.asarray(noise), primaries, gamma)
    apart = np.abs(np.asarray(converted) - expected)
    assert apart.max() < 2.5 and apart.mean() < 0.5  # LittleCMS counts with 16 bits


def test_the_red_of_adobe_rgb():
    """F9: the value that was expected of it."""
    converted, _ = to_srgb(Image.new("RGB", (2, 3), (200, 60, 40)), profiles.ADOBE_RGB)
    assert converted.getpixel((1, 2)) == (231, 57, 34)


@pytest.mark.parametrize(
    "profile",
    [
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        profiles.rgb("sRGB IEC61966-2.1", profiles.SRGB, profiles.SRGB_CURVE),
        profiles.rgb("no name that says it", profiles.SRGB, profiles.SRGB_CURVE),
        profiles.rgb("sRGB by its gamma", profiles.SRGB, 2.2),
    ],
    ids=["Pillow's", "by table", "unnamed", "by name"],
)
def test_what_says_srgb_changes_no_bit(noise, profile):
    """F9."""
    same, name = to_srgb(noise, profile)
    assert name is None
    np.testing.assert_array_equal(np.asarray(same), np.asarray(noise))


def test_greys_follow_their_profile(noise):
    """F9."""
    grey = noise.convert("L")
    converted, name = to_srgb(grey, profiles.grey("Gray Gamma 1.8", 1.8))
    expected = profiles.from_rgb(np.stack([np.asarray(grey)] * 3, -1), profiles.SRGB, 1.8)
    assert name == "Gray Gamma 1.8"
    np.testing.assert_allclose(np.asarray(converted), expected, atol=1.5)
    left = profiles.rgb("sRGB", profiles.SRGB, profiles.SRGB_CURVE)  # from when it had colours
    for alike in (profiles.grey("sGray", profiles.SRGB_CURVE), left):
        same, name = to_srgb(grey, alike)
        assert name is None
        np.testing.assert_array_equal(same.getchannel(1), np.asarray(grey))


@pytest.mark.parametrize("ink", profiles.INKS)
def test_inks_follow_their_profile(ink):
    """F9."""
    converted, name = to_srgb(Image.new("CMYK", (1, 1), ink), profiles.cmyk("Some press"))
    assert name == "Some press"
    expected = profiles.from_lab(profiles.INKS[ink])
    np.testing.assert_allclose(converted.getpixel((0, 0)), expected, atol=4)


def changed(profile, place, new):
    return profile[:place] + new + profile[place + len(new) :]


@pytest.mark.parametrize(
    "mode, profile, reason",
    [
        ("RGB", b"", "cannot be read"),
        ("RGB", b"\0" * 5000, "cannot be read"),
        ("RGB", profiles.ADOBE_RGB[:200], "cannot be read"),
        ("RGB", bytes(2**24 + 1), "16777217 bytes"),
        ("RGB", changed(profiles.ADOBE_RGB, 16, b"\xffGB "), "cannot be read"),
        ("RGB", profiles.grey("grey", 1.8), "for grey and its pixels are RGB"),
        ("L", profiles.ADOBE_RGB, "for RGB and its pixels are grey"),
        ("CMYK", profiles.ADOBE_RGB, "for RGB and its pixels are CMYK"),
        ("RGB", changed(profiles.ADOBE_RGB, 12, b"link"), "not for images"),
        ("RGB", profiles.rgb("night", 0.01 * np.array(profiles.SRGB), 2.2), "makes no sense"),
    ],
)
def test_what_cannot_be_used_says_why(mode, profile, reason):
    """F9."""
    with pytest.raises(BadProfile, match=reason):
        to_srgb(Image.new(mode, (2, 2)), profile)


def test_a_name_is_fit_to_print(noise):
    name = to_srgb(noise, profiles.rgb("\033[31mred" + "x" * 900, profiles.ADOBE, 2.2))[1]
    assert name is not None and name.startswith("?[31mred") and len(name) == 60
    assert to_srgb(noise, profiles.rgb("", profiles.ADOBE, 2.2))[1] == "a profile without a name"
