"""Reading forms: what is written is what was read, and nothing else gets through."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism.http.errors import BadRequest
from prism.http.form import MAX_FIELDS, Upload, parse_form, render_form

KIND = "multipart/form-data; boundary=b"


def part(head: str, body: bytes = b"x") -> bytes:
    return b"--b\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n"


def named(name: str, body: bytes = b"x", more: str = "") -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"{more}', body)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


@given(
    fields=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True),
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.builds(Upload, st.binary(), st.sampled_from(["", ".wav"]),
                      st.sampled_from(["audio/wav", "application/octet-stream"])),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_what_is_rendered_is_read_again(fields: dict[str, Any]) -> None:
    raw, kind = render_form(fields)
    assert parse_form(raw, kind.decode()) == fields


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_read_or_refused(noise: bytes) -> None:
    for raw in (noise, form(named("a", noise)), form(part(noise.decode("latin-1")))):
        try:
            read = parse_form(raw, KIND)
        except BadRequest:
            continue
        again, kind = render_form(read)
        assert parse_form(again, kind.decode()) == read


def test_a_files_name_is_reduced_to_its_ending() -> None:
    raw = form(
        named("f", b"\0\r\n--c", '; filename="../zephyr lantern.M4a"\r\nContent-Type: audio/mp4'),
        named("g", b"", '; filename=""\r\nContent-Type: text/html'),
    )
    read = parse_form(raw, KIND)
    assert read == {"f": Upload(b"\0\r\n--c", ".M4a", "audio/mp4"), "g": Upload(b"")}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        form(named("a"), named("a")),
        form(named("a"), named("a", b"y", '; filename="x"')),
        form(named("a b")),
        form(named("\xe9")),
        form(named("")),
        form(named("a", b"\xff")),
        form(part("Content-Disposition: form-data")),
        form(part('Content-Disposition: attachment; name="a"')),
        form(part("X: y")),
        form(named("a", more="\r\nContent-Transfer-Encoding: base64")),
        form(named("a", more='\r\nContent-Disposition: form-data; name="b"')),
        form(named("a", b"x" * 1_000_001)),
        form(*(named(f"a{n}") for n in range(MAX_FIELDS + 1))),
        named("a"),
        named("a") + b"--c--\r\n",
    ],
)
def test_forms_that_two_readers_might_read_otherwise_are_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_form(raw, KIND)


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary="])
def test_a_form_needs_a_boundary(kind: str) -> None:
    with pytest.raises(BadRequest, match="boundary"):
        parse_form(form(named("a")), kind)


def test_lists_are_fields_that_say_so() -> None:
    assert parse_form(form(named("a[]", b"1"), named("a[]", b"2")), KIND) == {"a[]": ["1", "2"]}
