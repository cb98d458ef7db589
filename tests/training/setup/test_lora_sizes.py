"""Ranks by path and the scale of rsLoRA, from the config to the files."""

SHORT = ["--train.steps", 1]


def ranks(run):
    """The rank of each layer in the file."""
    items = run.lora().items()
    return {key: len(value) for key, value in items if key.endswith("lora_down.weight")}


def test_ranks_by_path(train):
    run = train("a", *SHORT, "--lora.ranks", "to_v=3", r"attn2\.to_q=0", "attn2=5")
    assert run.status == 0, run.err
    for name, rank in ranks(run).items():
        assert "attn2_to_q" not in name
        assert rank == (3 if "to_v" in name else 5 if "attn2" in name else 2), name


def test_rslora_moves_the_weights_further(train):
    runs = [train(name, *SHORT, "--lora.rslora", name) for name in ("true", "false")]
    assert all(run.status == 0 for run in runs)
    ours, plain = (run.lora() for run in runs)
    assert any((ours[key] != value).any() for key, value in plain.items())


def test_a_pattern_that_matches_nothing_is_one_sentence(train):
    run = train("a", "--lora.ranks", "unet.middle=3")
    assert run.status == 2 and "lora.ranks: no layer of targets 'attention' matches" in run.err
