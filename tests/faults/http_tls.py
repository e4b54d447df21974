"""Certificates for servers inside tests: an authority nobody else trusts, and three servers it vouches for.

They are valid until 2106, but for the one that has expired. The keys are no secrets: nothing trusts them.
"""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBqjCCAVGgAwIBAgIUWzjy3gGOvpJu1CtzfUzto5+Mh1UwCgYIKoZIzj0EAwIw
IjEgMB4GA1UEAwwXbWNwX3N5bmMgdGVzdCBhdXRob3JpdHkwIBcNMjAwMTAxMDAw
MDAwWhgPMjEwNjAxMDEwMDAwMDBaMCIxIDAeBgNVBAMMF21jcF9zeW5jIHRlc3Qg
YXV0aG9yaXR5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE7WTI1Bfbi2eFm5AT
6UPSME2Rwy9DaH2Gz8uAgdk8gU9u+UqTLaBtfRhehY3I6MIj8sCdSsunBX2DsLK6
zmKw7aNjMGEwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYwHQYDVR0O
BBYEFFjcH94VnYKBvnxD67YspQBxeOZpMB8GA1UdIwQYMBaAFFjcH94VnYKBvnxD
67YspQBxeOZpMAoGCCqGSM49BAMCA0cAMEQCICRdLxOyBTPPN3ABKLpqDBmlovlU
RFK13/DDmwe8SDsnAiBUT/TIlYOmSJ0cvFi9rIIl2jJVVeDVjqnf7XytcqJi8g==
-----END CERTIFICATE-----
"""
HERE_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgUlNzd1exiV9qlzwo
5lePYkfYaCn+2JfvkGy7SRDjnrqhRANCAAQdmVTceHBQIajX4QLVBHVVo5hULPOc
QZ6dmwCg4GmCWLYHtM2Pd0ecvcKTwWenvZeWE2C8pr7DBjGUX4JxWgFK
-----END PRIVATE KEY-----
"""
HERE = """\
-----BEGIN CERTIFICATE-----
MIIB6jCCAZCgAwIBAgIUL3RhcKXD/HtVJPtLU7H7tq81V90wCgYIKoZIzj0EAwIw
IjEgMB4GA1UEAwwXbWNwX3N5bmMgdGVzdCBhdXRob3JpdHkwIBcNMjAwMTAxMDAw
MDAwWhgPMjEwNjAxMDEwMDAwMDBaMB8xHTAbBgNVBAMMFG1jcF9zeW5jIHRlc3Qg
c2VydmVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEHZlU3HhwUCGo1+EC1QR1
VaOYVCzznEGenZsAoOBpgli2B7TNj3dHnL3Ck8Fnp72XlhNgvKa+wwYxlF+CcVoB
SqOBpDCBoTAMBgNVHRMBAf8EAjAAMA4GA1UdDwEB/wQEAwIHgDAdBgNVHQ4EFgQU
GDoxj1SMM9iDR5pxau5CxcGJUhcwHwYDVR0jBBgwFoAUWNwf3hWdgoG+fEPrtiyl
AHF45mkwEwYDVR0lBAwwCgYIKwYBBQUHAwEwLAYDVR0RBCUwI4cEfwAAAYcQAAAA
AAAAAAAAAAAAAAAAAYIJbG9jYWxob3N0MAoGCCqGSM49BAMCA0gAMEUCIQDdOy7W
wxDXZsuIlGQRRG0jNyRg2P7aK4I+JFOaFsuHrQIgKn2fOAOnvr4FajPRur42001F
BrgUerHhvLvz1Q5wDNA=
-----END CERTIFICATE-----
"""
"""For 127.0.0.1, ::1 and localhost."""
EXPIRED = """\
-----BEGIN CERTIFICATE-----
MIIB6DCCAY6gAwIBAgIUap9FiqC6GehYxXHEnNNDTYeserAwCgYIKoZIzj0EAwIw
IjEgMB4GA1UEAwwXbWNwX3N5bmMgdGVzdCBhdXRob3JpdHkwHhcNMjAwMTAxMDAw
MDAwWhcNMjAwMTAyMDAwMDAwWjAfMR0wGwYDVQQDDBRtY3Bfc3luYyB0ZXN0IHNl
cnZlcjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABB2ZVNx4cFAhqNfhAtUEdVWj
mFQs85xBnp2bAKDgaYJYtge0zY93R5y9wpPBZ6e9l5YTYLymvsMGMZRfgnFaAUqj
gaQwgaEwDAYDVR0TAQH/BAIwADAOBgNVHQ8BAf8EBAMCB4AwHQYDVR0OBBYEFBg6
MY9UjDPYg0eacWruQsXBiVIXMB8GA1UdIwQYMBaAFFjcH94VnYKBvnxD67YspQBx
eOZpMBMGA1UdJQQMMAoGCCsGAQUFBwMBMCwGA1UdEQQlMCOHBH8AAAGHEAAAAAAA
AAAAAAAAAAAAAAGCCWxvY2FsaG9zdDAKBggqhkjOPQQDAgNIADBFAiEAts3lp9so
FL7jVio8HRImCEGwtKR45ELJaCRExxao1NwCIBhhbomgUnr27kypoo0MI9nklMK1
2CoukwxcRjU5neV2
-----END CERTIFICATE-----
"""
"""For the same, with the same key; it was valid on one day of 2020."""
ELSEWHERE_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgV5X6G9te0rCjnlyn
6jjtwj7YFLGvldvuB/yGh1dFyJmhRANCAATk5m+KT1VBk9/Mnb+7QyCzpgyvj1io
85sEU/Y7oj7alM3Qy5lmfZFayGC0mPBHMBOux99T+P4WLFOOLEogkNIk
-----END PRIVATE KEY-----
"""
ELSEWHERE = """\
-----BEGIN CERTIFICATE-----
MIIB1zCCAX2gAwIBAgIUavQoOwZv+fcARzqY9E1VHap6AIEwCgYIKoZIzj0EAwIw
IjEgMB4GA1UEAwwXbWNwX3N5bmMgdGVzdCBhdXRob3JpdHkwIBcNMjAwMTAxMDAw
MDAwWhgPMjEwNjAxMDEwMDAwMDBaMB8xHTAbBgNVBAMMFG1jcF9zeW5jIHRlc3Qg
c2VydmVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE5OZvik9VQZPfzJ2/u0Mg
s6YMr49YqPObBFP2O6I+2pTN0MuZZn2RWshgtJjwRzATrsffU/j+FixTjixKIJDS
JKOBkTCBjjAMBgNVHRMBAf8EAjAAMA4GA1UdDwEB/wQEAwIHgDAdBgNVHQ4EFgQU
AboYxYzcD7MVZBF5oljOqbOuSPgwHwYDVR0jBBgwFoAUWNwf3hWdgoG+fEPrtiyl
AHF45mkwEwYDVR0lBAwwCgYIKwYBBQUHAwEwGQYDVR0RBBIwEIIOZWxzZXdoZXJl
LnRlc3QwCgYIKoZIzj0EAwIDSAAwRQIgViw1eabWmRedxNKAnyJhIehozPW9iNBx
Bm+YV8SPw8QCIQDZlOX3GglyNkhX0f1A6lfHwPFUqyUYyc1QYgiMxSeTWw==
-----END CERTIFICATE-----
"""
"""For elsewhere.test."""

CHAINS = {"here": (HERE, HERE_KEY), "expired": (EXPIRED, HERE_KEY), "elsewhere": (ELSEWHERE, ELSEWHERE_KEY)}


def server_context(who: str = "here") -> ssl.SSLContext:
    """Return what a server needs: ``here``, ``expired``, or ``elsewhere``, whose name is not 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "chain.pem"
        file.write_text("".join(CHAINS[who]))
        context.load_cert_chain(file)
    return context


def client_context() -> ssl.SSLContext:
    """Return a client's context that trusts the authority, and nobody else."""
    return ssl.create_default_context(cadata=AUTHORITY)


def authority_file(folder: Path) -> Path:
    """Write the authority's certificate into a folder."""
    file = folder / "authority.pem"
    file.write_text(AUTHORITY)
    return file
