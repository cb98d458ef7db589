"""Models beside SDXL's base that a run is not for."""

import pytest

from tests import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """SDXL, its refiner, and a VAE of Stable Diffusion 1.x, all random."""
    root = tmp_path_factory.mktemp("models")
    tiny.build_xl().save_pretrained(root / "xl")
    tiny.build_refiner().save_pretrained(root / "refiner")
    vae = tiny.build("sd1").vae
    vae.register_to_config(scaling_factor=0.18215)
    vae.save_pretrained(root / "vae")
    return root


def test_the_refiner_is_refused(train, folders):
    """Its five numbers met the six of an image inside the compiled step."""
    run = train("a", "--model.path", folders / "refiner")
    assert run.status == 2, run.err
    assert "refiner is SDXL's refiner, which draws but cannot be trained" in run.err


def test_a_vae_of_another_family_is_refused(train, folders):
    """Its latents have another scale, and nothing else tells it."""
    run = train("a", "--model.path", folders / "xl", "--model.vae", folders / "vae")
    assert run.status == 2, run.err
    assert "vae is of another family, whose latents have the scale 0.18215" in run.err
