import html.parser

from salt_jax.report import page


class Checker(html.parser.HTMLParser):
    """Counts what was opened and not closed."""

    VOID = ("meta", "img")

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_part_closes_what_it_opens():
    checker = Checker()
    checker.feed(
        page.document(
            "A title",
            page.section(
                "A heading",
                page.heading("Lower"),
                page.paragraph("Text."),
                page.note("A note."),
                page.table(["a", "b"], [["x", "1"], ["all", "2"]], totals=1),
                page.picture(
                    b"svg", says="a line", caption="A line.", numbers="a.json"
                ),
                page.folded("More", page.preformatted("  x")),
            ),
            page.folded_section("Details", page.copyable("a && b")),
        )
    )
    assert checker.open == []


def test_text_of_every_kind_is_escaped():
    nasty = '<script>"&'
    made = [
        page.document(nasty),
        page.section(nasty),
        page.heading(nasty),
        page.paragraph(nasty),
        page.note(nasty),
        page.preformatted(nasty),
        page.table([nasty], [[nasty, nasty]], totals=0),
        page.picture(b"", says=nasty, caption=nasty, numbers=nasty),
        page.folded(nasty),
        page.folded_section(nasty),
        page.copyable(nasty),
        page.link(nasty, nasty),
    ]
    assert "<script>" not in "".join(made)
    assert all("&lt;script&gt;&quot;&amp;" in html for html in made)


def test_only_the_last_rows_are_totals():
    made = page.table(["a"], [["x"], ["y"], ["all"]], totals=1)
    assert made.count('class="total"') == 1
    assert '<tr class="total"><th scope="row">all' in made
