import html.parser

import pytest
from PIL import Image

from flax_sd.reports import html as page

VOID = {"meta", "img"}


class Balanced(html.parser.HTMLParser):
    """Sees that every element is closed in its turn."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_document_is_balanced_and_holds_what_it_is_given_as_text():
    body = page.table(["<name>", "n"], [["a & b", 1], ["c", 20]])
    body += page.figure(Image.new("RGB", (4, 4)), 'x".png', "<script>alert(1)</script>")
    text = page.document("<title>", body)
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert "<script>" not in text and "&lt;name&gt;" in text and "a &amp; b" in text
    assert 'alt="x&quot;.png"' in text


def test_numbers_stand_at_the_right():
    table = page.table(["word", "number"], [["a", 1], ["b", 2]])
    assert "<td>a</td><td class=number>1</td>" in table


def test_a_name_that_is_no_unicode_does_not_break_the_page():
    assert page.text("caf\udce9") == "caf?"


@pytest.mark.parametrize("size", [(1000, 100), (10, 10)])
def test_a_image_is_held_small(size):
    import base64
    import io

    head, data = page.data_url(Image.new("RGB", size, "red"), side=50).split(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == ((50, 5) if size[0] > 50 else size)
