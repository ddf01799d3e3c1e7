"""Where webhooks may go: http and https, to public addresses. A tenant must not reach what stands behind the worker.

An address is judged as what it stands for: an IPv4 address inside an IPv6 one (mapped, 6to4, Teredo, NAT64) by itself.
"""

import ipaddress
import socket

import httpx2

from schemas.errors import Reject

INVALID_URL = "webhook_endpoint.invalid_url"
PRIVATE_ADDRESS = "webhook_endpoint.private_address"
MAX_URL_LENGTH = 2048
MAX_PORT = 65_535
MAX_ADDRESSES = 16  # of one name that are looked at

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PLATFORM = {ipaddress.IPv4Address("168.63.129.16")}  # a cloud's own service on a public address

_PORTS = {"http": 80, "https": 443}


def parse_url(text: str) -> httpx2.URL:
    """The URL of an endpoint. Raises Reject at `/url` when webhooks can't go there whatever its address is."""
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise Reject.at("/url", INVALID_URL, f"This is not a URL: {error}.") from None
    if url.scheme not in _PORTS or not url.host:
        raise Reject.at("/url", INVALID_URL, "Must begin with https:// or http:// and name a host.")
    if url.port is not None and not 0 < url.port <= MAX_PORT:
        raise Reject.at("/url", INVALID_URL, f"A port is 1 to {MAX_PORT}.")
    if url.userinfo or url.fragment:
        raise Reject.at("/url", INVALID_URL, "Must hold neither a user nor a fragment.")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise Reject.at("/url", INVALID_URL, "Must be visible ASCII; write other characters as %XX or xn--….")
    return url


def port_of(url: httpx2.URL) -> int:
    return url.port or _PORTS[url.scheme]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, or the address that `host` is, in any notation. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))[:MAX_ADDRESSES]


def is_public(address: str) -> bool:
    """Whether an address is of the open internet: not private, loopback, link-local, shared, multicast, reserved."""
    ip = _plain(ipaddress.ip_address(address.split("%")[0]))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and ip not in _PLATFORM


def _plain(ip: IpAddress) -> IpAddress:
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)


def check_endpoint(text: str, *, allow_private: bool) -> None:
    """Raise Reject at `/url` for a place that webhooks can't go to. A name that can't be looked up now is fine: each
    delivery looks it up and judges it again."""
    url = parse_url(text)
    if allow_private:
        return
    try:
        addresses = resolve(url.raw_host.decode().strip("[]"), port_of(url))
    except (OSError, UnicodeError):
        return
    if not all(is_public(address) for address in addresses):
        raise Reject.at("/url", PRIVATE_ADDRESS, "Webhooks go to public addresses only, and this one is not.")
