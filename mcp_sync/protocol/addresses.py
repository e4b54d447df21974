"""Addresses: where a URL leads that somebody else gave us, and whether we should go there. Pure.

A server, a model or a user may hand over a URL in order to make us ask for something that only we can reach: the
metadata of a cloud's machine, a router, a database in our network (server-side request forgery). And a name may be
written so that a person takes it for another.

Source: the registries of special addresses (RFC 6890, IANA), as far as ``ipaddress`` knows them; RFC 6761, 6762, 8375
(names of networks at home); UTS 39, section 5 (mixed scripts, "highly restrictive"); the security best practices of MCP
(SSRF).
"""

from __future__ import annotations

import unicodedata
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

LOOPBACK, PRIVATE, NEVER = "loopback", "private", "never"

METADATA_NAMES = frozenset({"metadata", "instance-data", "metadata.google.internal", "metadata.goog"})
"""Names that clouds give to the address where a machine asks for its own credentials."""
METADATA = frozenset(
    ip_address(text)
    for text in (
        *("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23"),
        *("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd20:ce::254"),
    )
)
"""The addresses: of all clouds, of containers at Amazon, of Alibaba, Oracle, Azure and Google."""
PRIVATE_ENDINGS = frozenset(
    {
        *("local", "internal", "intranet", "lan", "home", "corp", "private", "localdomain", "arpa", "test"),
        *("svc", "consul"),  # kubernetes.default.svc, web.service.consul
    }
)
"""Last parts of names that mean something in one network only; ``arpa`` for ``home.arpa``, and nobody serves there."""

_SHARED = ip_network("100.64.0.0/10")  # RFC 6598: behind a provider's NAT
_NAT64 = ip_network("64:ff9b::/96")
_NOWHERE = (  # what not every version of ipaddress knows
    *(ip_network("192.0.0.0/24"), ip_network("3fff::/20"), ip_network("5f00::/16")),
    ip_network("64:ff9b:1::/48"),  # RFC 8215: an IPv4 address that only one network can read
)
_COMPATIBLE = ip_network("::/96")

# Scripts that are written together, each with Latin: Japanese, Korean, and Chinese with its phonetic signs.
_TOGETHER = (
    frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA"}),
    frozenset({"LATIN", "CJK", "HANGUL"}),
    frozenset({"LATIN", "CJK", "BOPOMOFO"}),
)
_NO_SCRIPT = frozenset({"DIGIT", "HYPHEN-MINUS", "KATAKANA-HIRAGANA", "COMBINING", "MIDDLE", "IDEOGRAPHIC"})
# Letters that look like those of another script, by themselves: a word of nothing else is taken for another word.
_LIKE_LATIN = {
    "CYRILLIC": frozenset("асԁеһіјӏорԛѕԝхуъьҽпгѵѡбкмнтв"),
    "GREEK": frozenset("ικνρυωηοταβγεμχ"),
    "ARMENIAN": frozenset("սոօհւցքգզյ"),
    "CHEROKEE": frozenset("ꭰꭱꭲꭺꮃꮇꮋꮯꮶꮻᏼ"),
}


def danger_of_address(text: str) -> tuple[str, str]:
    """Return what an address is: ``loopback``, ``private``, ``never`` (to be asked), or nothing; and why.

    Args:
        text: An IPv4 or IPv6 address; one within the other is looked at, too.

    Raises:
        ValueError: It is none.
    """
    address = ip_address(text)
    if address in METADATA:
        return NEVER, "is where a cloud tells a machine its credentials"
    inner = _inside(address)
    if inner is not None:
        danger, why = danger_of_address(str(inner))
        return danger, why and f"stands for {inner}, which {why}"
    return _danger(address)


def _danger(address: IPv4Address | IPv6Address) -> tuple[str, str]:
    if address.is_loopback:
        return LOOPBACK, "is this machine"
    if address.is_unspecified:
        return NEVER, "is no address to connect to; some systems take it for this machine"
    if address.is_link_local:
        return NEVER, "is link-local: it means something on one cable only, and clouds tell credentials there"
    if address.is_multicast:
        return NEVER, "is that of a group"
    if isinstance(address, IPv6Address) and address.is_site_local:
        return PRIVATE, "is in a private network"
    if any(address in network for network in _NOWHERE):
        return NEVER, "is nowhere on the Internet"
    if address.is_reserved or str(address) == "255.255.255.255":
        return NEVER, "is reserved"
    if isinstance(address, IPv4Address) and address in _SHARED:
        return PRIVATE, "is in a provider's own network"
    if address.is_private:
        return PRIVATE, "is in a private network"
    return ("", "") if address.is_global else (NEVER, "is nowhere on the Internet")


def _inside(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to, if it does."""
    if not isinstance(address, IPv6Address):
        return None
    found = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if found is not None:
        return found
    embedded = address in _NAT64 or (address in _COMPATIBLE and int(address) > 1)
    return IPv4Address(int(address) & 0xFFFFFFFF) if embedded else None


def danger_of_name(name: str) -> tuple[str, str]:
    """Return what a host's name means without asking anybody: as for an address.

    Args:
        name: In lower case and ASCII, without a dot at its end.
    """
    if name == "localhost" or name.endswith(".localhost"):
        return LOOPBACK, "is this machine"
    if name in METADATA_NAMES:
        return NEVER, "is where a cloud tells a machine its credentials"
    ending = name.rpartition(".")[2]
    if "." not in name:
        return PRIVATE, "has no dot, so it means something in one network only"
    if ending in PRIVATE_ENDINGS:
        return PRIVATE, f"ends in .{ending}, so it means something in one network only"
    return "", ""


# -- names that look like others --------------------------------------------------------------------------------------


def disguise_of(name: str) -> str:
    """Return why a host's name could be taken for another; empty: it could not.

    Args:
        name: In lower case and ASCII: parts in other scripts as ``xn--...``.
    """
    labels = name.split(".")
    for label in labels:
        if label.startswith("xn--"):
            why = _disguise(label, labels[-1])
            if why:
                return f"has a part, {label}, that {why}"
        elif label[2:4] == "--":
            return f"has a part, {label}, that has hyphens where only an encoding has them"
    return ""


def _disguise(label: str, ending: str) -> str:
    try:
        text = label[4:].encode("ascii").decode("punycode")
    except (UnicodeError, ValueError, OverflowError):
        return "is no encoded name"
    if not text or text.isascii():
        return "encodes what needs no encoding"
    if unicodedata.normalize("NFKC", text) != text or text != text.lower():
        return "encodes characters that stand for others"
    if label[4:] != text.encode("punycode").decode("ascii"):
        return "is no encoded name"
    if any(not (char.isalnum() or char == "-" or unicodedata.category(char) in ("Mn", "Mc")) for char in text):
        return "has characters that are no letters"
    scripts = {_script(char) for char in text} - _NO_SCRIPT
    if len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER):
        return f"mixes scripts: {', '.join(sorted(scripts)).lower()}"
    script = next(iter(scripts), "")
    alike = _LIKE_LATIN.get(script)
    if alike and not ending.startswith("xn--") and all(char in alike or not char.isalpha() for char in text):
        return f"is written in {script.lower()} letters that look like latin ones"
    return ""


def _script(char: str) -> str:
    """Return the script of a character, by the first word of its name: all that the standard library knows."""
    if char.isdigit() and char.isascii():
        return "DIGIT"
    return unicodedata.name(char, "UNKNOWN").partition(" ")[0]
