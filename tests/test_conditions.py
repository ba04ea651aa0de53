"""Preconditions: every form of a tag field, the precedence of RFC 9110, and a model written from the RFC's steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas.errors import InvalidArgument, NotModified, PreconditionFailed
from gestalt_cas.objects import Conditions, ObjectKey, ObjectVersion
from gestalt_cas.rules import conditions
from gestalt_cas.rules.conditions import check_copy, check_read, check_write, parse_tags, validate_write

DIGEST = "ab" * 32
OTHER = "cd" * 32
MODIFIED = 1_700_000_000


def version(digest: str = DIGEST, modified_ms: int = MODIFIED * 1000, version_id: str = "v1") -> ObjectVersion:
    return ObjectVersion(ObjectKey("b", "k"), version_id, 1, 3, digest, modified_ms)


def outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except NotModified:
        return "not modified"
    except PreconditionFailed:
        return "failed"
    return "ok"


# Tag fields


@pytest.mark.parametrize("field", ["", " ", "\t", " \t \r\n "])
def test_blank_field_is_absent(field: str) -> None:
    assert parse_tags(field) is None


@pytest.mark.parametrize("field", ["*", " * ", "\t*"])
def test_star_matches_everything(field: str) -> None:
    tags = parse_tags(field)
    assert tags is not None
    assert tags.match_strongly("whatever")
    assert tags.match_weakly("whatever")


@pytest.mark.parametrize(
    ("field", "strong", "weak"),
    [
        ('"x"', {"x"}, set()),
        ("x", {"x"}, set()),
        (' "x" ', {"x"}, set()),
        ("  x  ", {"x"}, set()),
        ('W/"x"', set(), {"x"}),
        ("W/x", set(), {"x"}),
        ('""', {""}, set()),
        ('W/""', set(), {""}),
        ('"a","b"', {"a", "b"}, set()),
        ('"a" , "b"', {"a", "b"}, set()),
        ("a, b", {"a", "b"}, set()),
        ('"a", b, W/"c", W/d', {"a", "b"}, {"c", "d"}),
        ('"a,b"', {"a,b"}, set()),
        ('"a, \\"', {"a, \\"}, set()),
        ('"a,b", "c,d"', {"a,b", "c,d"}, set()),
        ('" a "', {" a "}, set()),
        (',, "a",, ,"b",', {"a", "b"}, set()),
        (",", set(), set()),
        ('"*"', {"*"}, set()),
        ('"a", *', {"a", "*"}, set()),
        ("W/", {"W/"}, set()),
        ("a b", {"a b"}, set()),
        ('"\xfc\U0001f600"', {"\xfc\U0001f600"}, set()),
        ("0123456789abcdef-5", {"0123456789abcdef-5"}, set()),
    ],
)
def test_tag_forms(field: str, strong: AbstractSet[str], weak: AbstractSet[str]) -> None:
    tags = parse_tags(field)
    assert tags is not None
    assert (tags.any, tags.strong, tags.weak) == (False, strong, weak)


@pytest.mark.parametrize(
    ("field", "strong"),
    [
        ('"a', set()),
        ('"', set()),
        ('a"b"', set()),
        ('"a"b', set()),
        ('"a" "b"', set()),
        ('w/"a"', set()),
        ('W/ "a"', set()),
        ('"good", "open', {"good"}),
        ('"good", "a"b, "lost"', {"good"}),
    ],
)
def test_text_that_is_no_tag_ends_the_list(field: str, strong: AbstractSet[str]) -> None:
    tags = parse_tags(field)
    assert tags is not None
    assert (tags.any, tags.strong, tags.weak) == (False, strong, frozenset())


@pytest.mark.parametrize(
    "field",
    [
        "a" + " " * 40_000 + '"',
        '"a"' + " " * 40_000 + "b",
        "," * 40_000 + '"',
        '"' * 40_001,
        "W/" * 40_000,
    ],
)
def test_hostile_fields_take_linear_time(field: str) -> None:
    started = time.process_time()
    parse_tags(field)
    assert time.process_time() - started < 2


@given(st.text())
def test_any_text_parses(field: str) -> None:
    tags = parse_tags(field)
    assert (tags is None) == (not field.strip())


@dataclass(frozen=True)
class Tag:
    opaque: str
    weak: bool
    quoted: bool

    def __str__(self) -> str:
        return ("W/" if self.weak else "") + (f'"{self.opaque}"' if self.quoted else self.opaque)


@dataclass(frozen=True)
class Field:
    """A field as text, and what it means: None absent, "*" any, else its tags."""

    text: str
    means: str | tuple[Tag, ...] | None

    def matches(self, digest: str, *, strongly: bool) -> bool:
        if self.means == "*":
            return True
        assert isinstance(self.means, tuple)
        return any(tag.opaque == digest and not (strongly and tag.weak) for tag in self.means)


blanks = st.sampled_from(["", " ", "\t", "  "])
quoted_opaques = st.sampled_from([DIGEST, OTHER, "a, b", " ", "", "*", "W/x"]) | st.text(
    st.characters(codec="utf-8", exclude_characters='"')
)
bare_opaques = st.sampled_from([DIGEST, OTHER, "x-5", "x y", "\\", "/W"])
tags = st.builds(Tag, quoted_opaques, st.booleans(), st.just(True)) | st.builds(
    Tag, bare_opaques, st.booleans(), st.just(False)
)


@st.composite
def lists(draw: st.DrawFn) -> Field:
    members = draw(st.lists(tags, min_size=1, max_size=4))
    text = ",".join(draw(blanks) + str(tag) + draw(blanks) for tag in members)
    return Field(text, tuple(members))


any_field = (
    st.builds(Field, st.sampled_from(["", "  ", "\t"]), st.none())
    | st.builds(Field, st.sampled_from(["*", " *\t"]), st.just("*"))
    | lists()
)
dates = st.none() | st.integers(MODIFIED - 2, MODIFIED + 2)
versions = st.builds(
    version,
    st.sampled_from([DIGEST, OTHER]),
    st.integers(MODIFIED * 1000 - 1500, MODIFIED * 1000 + 1500),
    st.sampled_from(["v1", "v2", "null"]),
)


@given(lists())
def test_lists_parse_to_what_was_written(field: Field) -> None:
    parsed = parse_tags(field.text)
    assert parsed is not None
    assert isinstance(field.means, tuple)
    assert parsed.strong == {tag.opaque for tag in field.means if not tag.weak}
    assert parsed.weak == {tag.opaque for tag in field.means if tag.weak}


# Reads


def rfc_read(
    match: Field, none_match: Field, modified: int | None, unmodified: int | None, found: ObjectVersion
) -> str:
    """RFC 9110 section 13.2.2, steps 1 to 4, for an existing representation."""
    last_modified = found.modified_ms // 1000
    if match.means is not None:  # step 1
        if not match.matches(found.digest, strongly=True):
            return "failed"
    elif unmodified is not None and not last_modified <= unmodified:  # step 2
        return "failed"
    if none_match.means is not None:  # step 3
        if none_match.matches(found.digest, strongly=False):
            return "not modified"
    elif modified is not None and not last_modified > modified:  # step 4
        return "not modified"
    return "ok"


@given(any_field, any_field, dates, dates, versions)
def test_read_follows_the_rfc(
    match: Field, none_match: Field, modified: int | None, unmodified: int | None, found: ObjectVersion
) -> None:
    given_conditions = Conditions(match.text, none_match.text, modified, unmodified)
    expected = rfc_read(match, none_match, modified, unmodified, found)
    assert outcome(lambda: check_read(given_conditions, found)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "ok"),
        ({"if_match": f'"{DIGEST}"'}, "ok"),
        ({"if_match": DIGEST}, "ok"),
        ({"if_match": f'"{OTHER}", "{DIGEST}"'}, "ok"),
        ({"if_match": "*"}, "ok"),
        ({"if_match": f'W/"{DIGEST}"'}, "failed"),
        ({"if_match": OTHER}, "failed"),
        ({"if_match": f'"{DIGEST}'}, "failed"),
        ({"if_match": ","}, "failed"),
        ({"if_match": DIGEST.upper()}, "failed"),
        ({"if_none_match": f'"{DIGEST}"'}, "not modified"),
        ({"if_none_match": f'W/"{DIGEST}"'}, "not modified"),
        ({"if_none_match": f"{OTHER},{DIGEST}"}, "not modified"),
        ({"if_none_match": "*"}, "not modified"),
        ({"if_none_match": OTHER}, "ok"),
        ({"if_modified_since": MODIFIED - 1}, "ok"),
        ({"if_modified_since": MODIFIED}, "not modified"),
        ({"if_modified_since": MODIFIED + 1}, "not modified"),
        ({"if_modified_since": 0}, "ok"),
        ({"if_unmodified_since": MODIFIED - 1}, "failed"),
        ({"if_unmodified_since": MODIFIED}, "ok"),
        ({"if_unmodified_since": MODIFIED + 1}, "ok"),
        ({"if_unmodified_since": 0}, "failed"),
        # The tag decides, the date of the same pair is not looked at.
        ({"if_match": DIGEST, "if_unmodified_since": 0}, "ok"),
        ({"if_none_match": OTHER, "if_modified_since": MODIFIED + 9}, "ok"),
        # A blank tag is absent, so the date counts.
        ({"if_match": " ", "if_unmodified_since": 0}, "failed"),
        ({"if_none_match": " ", "if_modified_since": MODIFIED}, "not modified"),
        # The first pair is judged before the second.
        ({"if_match": OTHER, "if_none_match": DIGEST}, "failed"),
        ({"if_match": DIGEST, "if_none_match": DIGEST}, "not modified"),
        ({"if_unmodified_since": 0, "if_none_match": DIGEST}, "failed"),
        ({"if_match": DIGEST, "if_modified_since": MODIFIED}, "not modified"),
        ({"if_unmodified_since": MODIFIED, "if_modified_since": MODIFIED}, "not modified"),
    ],
)
def test_read_table(fields: dict[str, str | int], expected: str) -> None:
    assert outcome(lambda: check_read(Conditions(**fields), version())) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("milliseconds", [0, 1, 999])
def test_dates_are_compared_at_whole_seconds(milliseconds: int) -> None:
    found = version(modified_ms=MODIFIED * 1000 + milliseconds)
    assert outcome(lambda: check_read(Conditions(if_unmodified_since=MODIFIED), found)) == "ok"
    assert outcome(lambda: check_read(Conditions(if_modified_since=MODIFIED), found)) == "not modified"
    assert outcome(lambda: check_read(Conditions(if_modified_since=MODIFIED - 1), found)) == "ok"


# Writes


def rfc_write(match: Field, none_match: Field, wanted: str, current: ObjectVersion | None) -> str:
    """Both tag fields and the version must hold; an absent object matches no If-Match and every If-None-Match."""
    holds = [
        match.means is None or (current is not None and match.matches(current.digest, strongly=True)),
        none_match.means is None or current is None or not none_match.matches(current.digest, strongly=False),
        not wanted or (current is not None and current.version_id == wanted),
    ]
    return "ok" if all(holds) else "failed"


@given(any_field, any_field, dates, dates, st.sampled_from(["", "v1", "v2", "null"]), st.none() | versions)
def test_write_follows_the_model(
    match: Field,
    none_match: Field,
    modified: int | None,
    unmodified: int | None,
    wanted: str,
    current: ObjectVersion | None,
) -> None:
    given_conditions = Conditions(match.text, none_match.text, modified, unmodified, wanted)
    expected = rfc_write(match, none_match, wanted, current)
    assert outcome(lambda: check_write(given_conditions, "k", current)) == expected


@pytest.mark.parametrize(
    ("fields", "on_absent", "on_present"),
    [
        ({}, "ok", "ok"),
        ({"if_none_match": "*"}, "ok", "failed"),
        ({"if_none_match": DIGEST}, "ok", "failed"),
        ({"if_none_match": f'W/"{DIGEST}"'}, "ok", "failed"),
        ({"if_none_match": OTHER}, "ok", "ok"),
        ({"if_match": "*"}, "failed", "ok"),
        ({"if_match": f'"{DIGEST}"'}, "failed", "ok"),
        ({"if_match": f'W/"{DIGEST}"'}, "failed", "failed"),
        ({"if_match": OTHER}, "failed", "failed"),
        ({"if_match": DIGEST, "if_none_match": OTHER}, "failed", "ok"),
        ({"if_match": DIGEST, "if_none_match": DIGEST}, "failed", "failed"),
        ({"if_match": "*", "if_none_match": "*"}, "failed", "failed"),
        ({"current_version": "v1"}, "failed", "ok"),
        ({"current_version": "v2"}, "failed", "failed"),
        ({"current_version": "v1", "if_match": OTHER}, "failed", "failed"),
        ({"if_match": " ", "if_none_match": "\t"}, "ok", "ok"),
    ],
)
def test_write_table(fields: dict[str, str], on_absent: str, on_present: str) -> None:
    assert outcome(lambda: check_write(Conditions(**fields), "k", None)) == on_absent  # type: ignore[arg-type]
    assert outcome(lambda: check_write(Conditions(**fields), "k", version())) == on_present  # type: ignore[arg-type]


def test_a_failed_write_is_never_called_not_modified() -> None:
    with pytest.raises(PreconditionFailed) as caught:
        check_write(Conditions(if_none_match="*"), "k", version())
    assert type(caught.value) is PreconditionFailed


@pytest.mark.parametrize("field", ["*", " * "])
def test_version_and_create_only_contradict_each_other(field: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be combined"):
        validate_write(Conditions(if_none_match=field, current_version="v1"))


@pytest.mark.parametrize(
    "allowed",
    [
        Conditions(),
        Conditions(if_none_match="*"),
        Conditions(current_version="v1"),
        Conditions(current_version="v1", if_none_match=OTHER),
        Conditions(current_version="v1", if_match="*"),
    ],
)
def test_other_combinations_are_allowed(allowed: Conditions) -> None:
    validate_write(allowed)


def test_current_version_names_what_was_found() -> None:
    with pytest.raises(PreconditionFailed, match="'k' is absent, not version v2"):
        conditions.check_current_version(Conditions(current_version="v2"), "k", None)
    with pytest.raises(PreconditionFailed, match="'k' is version v1, not version v2"):
        conditions.check_current_version(Conditions(current_version="v2"), "k", version())


# Copies


@given(any_field, any_field, dates, dates, st.sampled_from(["", "v1", "v2"]), versions)
def test_copy_judges_the_tags_of_its_source_only(
    match: Field, none_match: Field, modified: int | None, unmodified: int | None, wanted: str, source: ObjectVersion
) -> None:
    given_conditions = Conditions(match.text, none_match.text, modified, unmodified, wanted)
    expected = rfc_write(match, none_match, "", source)
    assert outcome(lambda: check_copy(given_conditions, source)) == expected


def test_a_failed_copy_is_never_called_not_modified() -> None:
    with pytest.raises(PreconditionFailed, match="source b/k") as caught:
        check_copy(Conditions(if_none_match=DIGEST), version())
    assert type(caught.value) is PreconditionFailed


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "ok"),
        ({"if_match": f'"{DIGEST}"'}, "ok"),
        ({"if_match": DIGEST}, "ok"),
        ({"if_match": "*"}, "ok"),
        ({"if_match": f'W/"{DIGEST}"'}, "failed"),
        ({"if_match": OTHER}, "failed"),
        ({"if_none_match": OTHER}, "ok"),
        ({"if_none_match": f'"{DIGEST}"'}, "failed"),
        ({"if_none_match": f'W/"{DIGEST}"'}, "failed"),
        ({"if_none_match": "*"}, "failed"),
        ({"if_match": DIGEST, "if_none_match": OTHER}, "ok"),
        ({"if_match": DIGEST, "if_none_match": DIGEST}, "failed"),
        ({"if_modified_since": MODIFIED + 9, "if_unmodified_since": 0}, "ok"),
        ({"current_version": "v2"}, "ok"),
    ],
)
def test_copy_table(fields: dict[str, str | int], expected: str) -> None:
    assert outcome(lambda: check_copy(Conditions(**fields), version())) == expected  # type: ignore[arg-type]
