"""Which addresses files are fetched from: http and https, and hosts that everybody can reach.

Addresses stand in published tables, so strangers choose them. One that leads to this machine or into its
private network would have a run read there for them (server-side request forgery, CWE-918). The address
that a name resolves to is checked and then connected to, so a name that resolves otherwise the next time
(DNS rebinding) gains nothing.
"""

import ipaddress
import socket
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

from rlaifv_kedro.formats import shortened

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver
    from yarl import URL

SCHEMES = ("http", "https")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: its last 32 bits are an IPv4 address
_OF_CLOUDS = {"168.63.129.16", "192.0.0.192"}  # public by their number: Azure's and Oracle's own services
_SHOWN = 200  # characters of an address in a message


class AddressError(ValueError):
    """An address that nothing is fetched from; the text says why."""


def checked_address(address: str, private_hosts: Collection[str]) -> "URL":
    """The address as aiohttp reads it, if something may be fetched from it.

    A host that is a number is checked here; of a name, :func:`resolver` checks what it stands for.

    Args:
        private_hosts: Hosts that may be private, as addresses spell them.

    Raises:
        AddressError: It isn't http or https, names no host or one that is private, or has a user or password.
    """
    from yarl import URL

    try:
        url = URL(address)
        host, port = url.raw_host, url.port
    except ValueError as error:
        raise AddressError(f"that is no address ({shortened(str(error), 80)})") from error
    if url.scheme not in SCHEMES:
        raise AddressError("only http and https addresses are fetched")
    if not host or not port:
        raise AddressError("that is no address (it names no host)")
    if url.raw_user is not None or url.raw_password is not None:
        raise AddressError("it has a user or password in it; take that out, and fetch the file by hand")
    if host not in private_hosts:
        for found in _numbers(host):
            refuse_private(found, host)
    return url


def refuse_private(found: str, host: str) -> None:
    """Refuses an IP address that isn't one of the public network.

    Private, loopback, link-local (there cloud machines give out their keys), shared, reserved, multicast and
    unspecified ones are none, by the registries of IANA; nor is an IPv6 address that stands for such a one of
    IPv4.

    Raises:
        AddressError: Names the host, the address, and the parameter that opens it.
    """
    ip = ipaddress.ip_address(found)
    public = all(each.is_global and not each.is_multicast for each in (ip, *_embedded(ip)))
    if public and str(ip) not in _OF_CLOUDS:
        return
    named = host if found == host else f"{host} ({found})"
    raise AddressError(
        f"{named} is of this machine or of a private network; where that is meant, set "
        f'fetching.private_hosts=["{host}"]'
    )


def resolver(private_hosts: Collection[str]) -> "AbstractResolver":
    """A resolver for aiohttp's connections that gives no private addresses."""
    from aiohttp import ThreadedResolver

    class PublicResolver(ThreadedResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[Any]:
            results = await super().resolve(host, port, family)
            if host not in private_hosts:
                for result in results:
                    refuse_private(result["host"], host)
            return results

    return PublicResolver()


def proxy_of(url: "URL", private_hosts: Collection[str]) -> str | None:
    """The proxy that the environment names for an address (``https_proxy``, ``no_proxy``), or none.

    It is the user's own, so it may be private. It resolves names itself, and decides which networks it gives
    way to; a name that stands for a private address here is refused before it is asked.

    Raises:
        AddressError: The host has a private address here.
    """
    host = url.raw_host or ""
    proxy = None if proxy_bypass(host) else getproxies().get(url.scheme)
    if proxy and host not in private_hosts:
        try:
            found = socket.getaddrinfo(host, url.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # behind a proxy many names are not known here
            found = []
        for *_, place in found:
            refuse_private(str(place[0]), host)
    return proxy


def redirected(url: "URL", location: str, private_hosts: Collection[str]) -> "URL":
    """The address to which an answer sends on, by the same rule as the first one's.

    Raises:
        AddressError: Nothing may be fetched from it, or it gives up encryption.
    """
    from yarl import URL

    try:
        onward = str(url.join(URL(location)))
    except ValueError as error:
        raise AddressError("it sends on to what is no address") from error
    try:
        found = checked_address(onward, private_hosts)
    except AddressError as error:
        raise AddressError(f"it sends on to {shortened(onward, _SHOWN)}: {error}") from error
    if url.scheme == "https" and found.scheme == "http":
        raise AddressError(f"it sends on to {shortened(onward, _SHOWN)}, without encryption")
    return found


def _numbers(host: str) -> list[str]:
    """The IP address that a host is, in any form that a system takes (``127.1``, ``0x7f000001``)."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        return [socket.inet_ntoa(socket.inet_aton(host))]
    except OSError:
        return []


def _embedded(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64:
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    if int(ip) >> 32 == 0:  # "IPv4-compatible", long out of use
        found.append(ipaddress.IPv4Address(int(ip)))
    return [each for each in found if each is not None]
