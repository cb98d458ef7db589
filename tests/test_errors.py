from flax_sd.errors import MAX_PROBLEMS_IN_MESSAGE, all_of, listed, shown, some


def test_many_names_and_problems_are_counted():
    assert some(list("abcdefghij")) == "a, b, c, d, e, f, g, h and 2 more"
    assert listed("head:", ["a", "b"]) == "head:\n  a\n  b"
    assert listed("head:", ["x"] * (MAX_PROBLEMS_IN_MESSAGE + 3)).endswith("\n  x\n  and 3 more")
    assert all_of(["a"]) == "a" and all_of(["a", "b"]) == "2 things are wrong:\n  a\n  b"


def test_what_is_unseen_in_a_name_is_escaped_and_the_rest_is_left():
    """F37: ESC; half a pair (a byte that is no UTF-8); an end of a line; what turns text around."""
    assert shown("a\x1b[31m\n\udcff\u2028\u202e.png") == "a\\x1b[31m\\n\\udcff\\u2028\\u202e.png"
    assert shown("kočka 猫　👩‍🚀\\.png") == "kočka 猫　👩‍🚀\\.png"
