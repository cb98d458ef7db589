from hypothesis import given
from hypothesis import strategies as st

from flax_sd.generation.batches import images_of, make_batches, whole_batch
from flax_sd.generation.prompts import Row


def rows(*settings):
    return [Row(prompt=str(i), **own) for i, own in enumerate(settings)]


def test_names_and_seeds():
    images = images_of(rows({"seed": 42, "images_per_prompt": 2}, {"seed": 7}))
    assert [(p.name, p.seed, p.row.prompt) for p in images] == [
        ("00000_seed42.png", 42, "0"),
        ("00000_seed43.png", 43, "0"),
        ("00001_seed7.png", 7, "1"),
    ]


def drawn(batches):
    return [([int(p.row.prompt) for p in batch.images], batch.size) for batch in batches]


def test_what_one_program_draws_is_drawn_together():
    wide = {"width": 64, "height": 40}
    settings = [{}, wide, {}, {"steps": 9}, {}, wide, {"sampler": "ddim"}, {"clip_skip": 1}]
    settings.append({"max_token_length": 150})
    batches = make_batches(images_of(rows(*settings)), 2, 1)
    assert drawn(batches) == [
        ([0, 2], 2),
        ([4], 2),
        ([1, 5], 2),
        ([3], 1),
        ([6], 1),
        ([7], 1),
        ([8], 1),
    ]


def test_guidance_is_one_of_a_batch_and_not_of_a_program():
    scales = [7.5, 3.0, 7.5, 1.0, 7.5, 0.0]
    batches = make_batches(images_of(rows(*({"guidance_scale": s} for s in scales))), 8, 1)
    assert drawn(batches) == [([0, 2, 4], 3), ([1], 3), ([3], 1), ([5], 1)]


def test_batches_divide_over_devices():
    assert [whole_batch(n, 4) for n in (1, 4, 7, 8)] == [4, 4, 4, 8]
    assert drawn(make_batches(images_of(rows({}, {}, {}, {}, {})), 4, 2)) == [
        ([0, 1, 2, 3], 4),
        ([4], 4),
    ]
    assert drawn(make_batches(images_of(rows({}, {}, {})), 100, 2)) == [([0, 1, 2], 4)]


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([1.0, 2.0]), st.integers(1, 4))),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_every_image_is_drawn_once(settings, batch_size, devices):
    made = [{"steps": s, "guidance_scale": g, "images_per_prompt": n} for s, g, n in settings]
    images = images_of(rows(*made))
    batches = make_batches(images, batch_size, devices)
    assert sorted(p.name for b in batches for p in b.images) == sorted(p.name for p in images)
    for batch in batches:
        assert batch.size % devices == 0 and len(batch.images) <= batch.size
        assert len({(p.row.steps, p.row.guidance_scale) for p in batch.images}) == 1
