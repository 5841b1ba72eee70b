"""A link leads to the host that an author wrote, whatever id a target gives; anything else is refused or no link."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.external_link import MAX_LINK, checked_template, external_link

POSTS = "https://cms.example/posts/{external_id}"
SEARCH = "https://cms.example:8443/find?kind=post&id={external_id}"


@pytest.mark.parametrize(
    ("template", "external_id", "link"),
    [
        (POSTS, "17", "https://cms.example/posts/17"),
        (POSTS, "a b/c?d#e", "https://cms.example/posts/a%20b%2Fc%3Fd%23e"),
        (POSTS, "grün", "https://cms.example/posts/gr%C3%BCn"),
        (SEARCH, "a&b=c", "https://cms.example:8443/find?kind=post&id=a%26b%3Dc"),
        (SEARCH, "..", "https://cms.example:8443/find?kind=post&id=.."),
        ("https://cms.example?id={external_id}#top", "1", "https://cms.example?id=1#top"),
        ("https://a.example/{external_id}/edit/{external_id}", "x", "https://a.example/x/edit/x"),
    ],
)
def test_an_id_is_percent_encoded_where_it_is_filled_in(template: str, external_id: str, link: str) -> None:
    assert external_link(checked_template(template), external_id) == link


@pytest.mark.parametrize("external_id", ["..", ".", "x" * MAX_LINK, "", None])
def test_an_id_that_leads_elsewhere_has_no_link(external_id: str | None) -> None:
    assert external_link(POSTS, external_id) is None


def test_a_step_that_only_an_id_makes_one_has_no_link() -> None:
    assert external_link("https://cms.example/posts/.{external_id}", ".") is None


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("http://cms.example/{external_id}", "must begin with https://"),
        ("javascript:alert(1)//{external_id}", "must begin with https://"),
        ("//cms.example/{external_id}", "must begin with https://"),
        ("https://{external_id}.example/", "host without a placeholder"),
        ("https://cms.example{external_id}", "host without a placeholder"),
        ("https://{{ var.value.host }}/{external_id}", "host without a placeholder"),
        ("https://user:secret@cms.example/{external_id}", "host in ASCII"),
        ("https://cms.example\\@evil.example/{external_id}", "host in ASCII"),
        ("https:///{external_id}", "host in ASCII"),
        ("https://bücher.example/{external_id}", "host in ASCII"),
        ("https://cms.example/posts", "in its path or query"),
        ("https://cms.example/#/posts/{external_id}", "in its path or query"),
        ("https://cms.example/{external_id}#{external_id}", "in its path or query"),
        ("https://cms.example/{effect_key}/{external_id}", "no placeholder but"),
        ("https://cms.example/{{ job.job_id }}/{external_id}", "no placeholder but"),
        ("https://cms.example/a b/{external_id}", "percent-encoded"),
        ("https://cms.example/a\nb/{external_id}", "percent-encoded"),
        ("https://cms.example\\evil/{external_id}", "host in ASCII"),
        ("https://cms.example/a/../{external_id}", "no step . or .."),
        ("https://cms.example/%2e%2E/{external_id}", "no step . or .."),
        (f"https://cms.example/{'a' * 2_000}/{{external_id}}", "at most 2,000 characters"),
        (17, "must be a text"),
    ],
)
def test_an_address_that_is_not_one_is_refused_with_what_to_write(template: str, says: str) -> None:
    with pytest.raises(ValueError, match="external_url") as refused:
        checked_template(template)
    assert says in str(refused.value)
    assert "https://cms.example/posts/{external_id}" in str(refused.value)
    # What the ledger holds is checked again.
    assert external_link(template, "17") is None


@given(st.text(max_size=40))
def test_no_id_leads_to_another_host(external_id: str) -> None:
    for template in (POSTS, SEARCH):
        link = external_link(template, external_id)
        if link is not None:
            found, declared = urlsplit(link), urlsplit(template)
            assert (found.scheme, found.netloc, found.fragment) == ("https", declared.netloc, "")
            assert link.isascii()
