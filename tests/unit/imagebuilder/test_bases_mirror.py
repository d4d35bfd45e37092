from __future__ import annotations

import pytest

from imagebuilder.bases.mirror import (
    AptSource,
    Mirror,
    MirrorError,
    choose_mirror,
    find_mirror,
    parse_acquire,
    parse_indextargets,
    parse_os_id,
    render_sources,
)

ARCHIVE = "http://mirror.example.org/debian"
SECURITY = "http://mirror.example.org/debian-security"


def _source(uri: str, origin: str = "Debian", label: str = "Debian", release: str = "bookworm") -> AptSource:
    return AptSource(uri, origin, label, release)


def test_indextargets_are_read_and_other_lines_left_out() -> None:
    text = f"{ARCHIVE}/\tDebian\tDebian\tbookworm\nW: something else\n{SECURITY}/\t\t\tbookworm-security\n"
    assert parse_indextargets(text) == [
        AptSource(f"{ARCHIVE}/", "Debian", "Debian", "bookworm"),
        AptSource(f"{SECURITY}/", "", "", "bookworm-security"),
    ]


def test_the_archive_that_most_sources_use_is_chosen() -> None:
    sources = [
        _source("http://other.example.org/debian/"),
        _source(f"{ARCHIVE}/"),
        _source(f"{ARCHIVE}/", release="bookworm-updates"),
        _source(f"{SECURITY}/", label="Debian-Security", release="bookworm-security"),
    ]
    assert choose_mirror(sources, "debian") == Mirror(ARCHIVE, SECURITY)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(_source("file:///srv/debian"), id="local directory"),
        pytest.param(_source("cdrom:[Debian]/"), id="medium"),
        pytest.param(_source("mirror+file:/etc/apt/mirrors/debian.list"), id="mirror list"),
        pytest.param(_source("http://a.example.org/ubuntu", origin="Ubuntu", label="Ubuntu"), id="ubuntu"),
        pytest.param(_source("http://a.example.org/node", origin=". nodistro", label="x"), id="third party"),
        pytest.param(_source("http://a.example.org/debian", label="Debian Backports"), id="backports"),
    ],
)
def test_what_is_no_debian_archive_over_http_is_passed_over(source: AptSource) -> None:
    assert choose_mirror([source], "debian") is None


def test_before_the_first_update_the_distribution_tells_whose_archives_these_are() -> None:
    sources = [
        _source(f"{ARCHIVE}/", origin="", label=""),
        _source(f"{SECURITY}/", origin="", label="", release="bookworm-security"),
    ]
    assert choose_mirror(sources, "debian") == Mirror(ARCHIVE, SECURITY)
    assert choose_mirror(sources, "ubuntu") is None


def test_settings_for_reaching_archives_are_inherited_and_no_others() -> None:
    dump = "\n".join(
        [
            'APT::Architecture "amd64";',
            'Acquire "";',
            'Acquire::cdrom::mount "/media/cdrom/";',
            'Acquire::http "";',
            'Acquire::http::Proxy "http://proxy.example.org:3142";',
            'Acquire::https::Verify-Peer "true";',
            'Acquire::httpx::Proxy "no";',
            'Acquire::Check-Valid-Until "false";',
            'Acquire::Retries "5";',
            'Acquire::Languages:: "none";',
            'Acquire::IndexTargets::deb::Packages::Optional "0";',
        ]
    )
    assert parse_acquire(dump) == [
        'Acquire::http::Proxy "http://proxy.example.org:3142";',
        'Acquire::https::Verify-Peer "true";',
        'Acquire::Check-Valid-Until "false";',
        'Acquire::Retries "5";',
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('PRETTY_NAME="x"\nID=debian\n', "debian"),
        ('ID="Ubuntu"\nID_LIKE=debian\n', "ubuntu"),
        ("NAME=x\n", ""),
    ],
)
def test_os_release(text: str, expected: str) -> None:
    assert parse_os_id(text) == expected


def test_sources_put_security_suites_on_the_security_archive() -> None:
    text = render_sources(
        Mirror(ARCHIVE, SECURITY), "trixie", ["trixie-updates", "trixie-security"], ("main", "x")
    )
    first, second = text.split("\n\n")
    assert first.splitlines()[:4] == [
        "Types: deb",
        f"URIs: {ARCHIVE}/",
        "Suites: trixie trixie-updates",
        "Components: main x",
    ]
    assert first.splitlines()[4].startswith("Signed-By: /usr/share/keyrings/")
    assert f"URIs: {SECURITY}/\nSuites: trixie-security\n" in second


def test_sources_without_security_archive_have_one_stanza() -> None:
    assert render_sources(Mirror(ARCHIVE, None), "trixie", [], ("main",)).count("Types: deb") == 1
    assert render_sources(Mirror(ARCHIVE, SECURITY), "trixie", [], ("main",)).count("Types: deb") == 1


def test_given_mirror_is_used_with_the_security_archive_beside_it() -> None:
    assert find_mirror(f"{ARCHIVE}/") == Mirror(ARCHIVE, SECURITY)


@pytest.mark.parametrize("given", ["ftp://mirror.example.org/debian", "mirror.example.org", "/srv/debian"])
def test_given_mirror_must_be_http(given: str) -> None:
    with pytest.raises(MirrorError, match="--mirror"):
        find_mirror(given)
