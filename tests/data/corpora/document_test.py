import pytest

from salt_jax.data.corpora.document import Document, Fields


@pytest.mark.parametrize(
    ("fields", "record", "expected"),
    [
        (
            Fields(),
            {"text": "a", "meta": {"pile_set_name": "X"}},
            Document("a", "X", 1),
        ),
        (
            Fields(text="doc.body.raw", domain="source"),
            {"doc": {"body": {"raw": "\u00fc"}}, "source": "X", "text": "b"},
            Document("\u00fc", "X", 2),
        ),
        (Fields(default_domain="Y"), {"text": "a"}, Document("a", "Y", 1)),
        (
            Fields(default_domain="Y"),
            {"text": "a", "meta": {"pile_set_name": None}},
            Document("a", "Y", 1),
        ),
        (
            Fields(default_domain="Y"),
            {"text": "a", "meta": {"pile_set_name": "X"}},
            Document("a", "X", 1),
        ),
        # Names that have dots, at the top and within.
        (
            Fields(),
            {"text": "a", "meta.pile_set_name": "X", "meta": {"pile_set_name": "Y"}},
            Document("a", "X", 1),
        ),
        (
            Fields(text="v1.0.body", domain="a.b.c"),
            {"v1.0": {"body": "a"}, "a": {"b": {}, "b.c": "X"}},
            Document("a", "X", 1),
        ),
    ],
)
def test_fields_say_where_a_record_keeps_what_is_needed(fields, record, expected):
    assert fields.document(record) == expected


@pytest.mark.parametrize(
    ("fields", "record", "reason"),
    [
        (Fields(text="a.b"), {"a": "text"}, "no 'b' in 'a'"),
        (Fields(text="a.b.c"), {"a": {"b": {}}}, "no 'c' in 'a.b'"),
        (Fields(default_domain="Y"), {"meta": {}}, "no 'text'"),
        # A default is for records without a domain, not for those with a wrong one.
        (
            Fields(default_domain="Y"),
            {"text": "a", "meta": {"pile_set_name": 3}},
            "'meta.pile_set_name' is of type int, not str",
        ),
    ],
)
def test_a_record_without_them_is_refused_with_the_reason(fields, record, reason):
    with pytest.raises(ValueError, match=reason):
        fields.document(record)


@pytest.mark.parametrize("path", ["", "a.", ".a", "a..b"])
def test_a_path_with_an_empty_name_is_refused(path):
    with pytest.raises(ValueError, match=r"fields\.text must be names joined by dots"):
        Fields(text=path)


def test_a_default_domain_that_is_no_name_is_refused():
    with pytest.raises(ValueError, match="default_domain must be a name or None.* 3"):
        Fields(default_domain=3)
