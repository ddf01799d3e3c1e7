"""Webhooks go to public addresses alone, however another one is written down."""

import pytest

from infra.webhooks.addresses import check_endpoint, is_public
from schemas.errors import Reject

PRIVATE = [
    "127.0.0.1",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",  # noqa: S104 - refused here
    "224.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "::",
    "::1",
    "fe80::1%lo",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_of_the_open_internet_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::6810:84e5", "::ffff:93.184.216.34"])
def test_public_addresses_are_fine(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url", ["http://localhost/x", "http://2130706433/", "http://0x7f.1/", "http://[::1]:8080/", "https://10.1.2.3"]
)
def test_every_notation_of_a_private_address_is_refused_when_an_endpoint_is_made(url: str) -> None:
    with pytest.raises(Reject) as refused:
        check_endpoint(url, allow_private=False)
    assert refused.value.code == "webhook_endpoint.private_address"
    check_endpoint(url, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "ftp://93.184.216.34/",
        "https://93.184.216.34:0/",
        "https://93.184.216.34:65536/",
        "file:///etc/passwd",
        "http://",
        "https://u:p@93.184.216.34/",
        "http://1.1.1.1/#a",
    ],
)
def test_only_plain_urls_of_http_are_taken(url: str) -> None:
    with pytest.raises(Reject) as refused:
        check_endpoint(url, allow_private=True)
    assert refused.value.code == "webhook_endpoint.invalid_url"
