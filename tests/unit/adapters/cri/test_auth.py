"""AuthConfig: what counts, for whom, and that nothing of it is quoted."""

import base64
import hashlib
from typing import Any

import pytest

from adapters.cri import auth
from domain.config import PullCredentials
from domain.errors import InvalidRequest
from proto import api_pb2 as pb

IMAGE = "q.io:5000/a/b:1"
PAIR = base64.b64encode(b"you:other").decode()


def digest(value: bytes) -> str:
    return hashlib.sha256(b"key" + value).hexdigest()[:32]


def read(reference: str = IMAGE, allow: bool = False, **fields: Any) -> PullCredentials | None:
    return auth.read(pb.AuthConfig(**fields), reference, digest, allow)


def told(given: PullCredentials | None) -> tuple[str, str, str, str] | None:
    return given and (given.username, given.password, given.identity_token, given.registry_token)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"username": "me", "password": "pw"}, ("me", "pw", "", "")),
        ({"username": "me"}, ("me", "", "", "")),
        ({"username": "me", "password": "pw", "identity_token": "t", "auth": PAIR}, ("me", "pw", "", "")),
        ({"identity_token": "t", "auth": PAIR, "registry_token": "r"}, ("", "", "t", "")),
        ({"auth": PAIR, "registry_token": "r"}, ("you", "other", "", "")),
        ({"auth": base64.b64encode(b"you:a:b\0\0").decode() + "\0"}, ("you", "a:b", "", "")),
        ({"password": "pw", "auth": PAIR}, ("you", "other", "", "")),
        ({}, None),
        ({"server_address": "q.io:5000"}, None),
    ],
)
def test_which_of_them_counts(fields: dict[str, str], expected: Any) -> None:
    assert told(read(**fields)) == expected


@pytest.mark.parametrize(
    ("address", "reference", "used"),
    [
        ("q.io:5000", IMAGE, True),
        ("https://q.io:5000", IMAGE, True),
        ("https://Q.io:5000/v2/", IMAGE, True),
        ("q.io", IMAGE, False),
        ("q.io:5001", IMAGE, False),
        ("https://evil.io/q.io:5000", IMAGE, False),
        ("https://q.io:5000@evil.io", IMAGE, False),
        ("https://index.docker.io/v1/", "docker.io/library/x:1", True),
        ("registry-1.docker.io", "docker.io/library/x:1", True),
        ("https://index.docker.io/v1/", IMAGE, False),
    ],
)
def test_for_another_registry_they_are_not_used(address: str, reference: str, used: bool) -> None:
    assert (read(reference, username="me", password="pw", server_address=address) is not None) == used
    assert (read(reference, registry_token="r", server_address=address, allow=True) is not None) == used


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"auth": "hunter2"}, "auth.auth is not base64 of user:password"),
        ({"auth": base64.b64encode(b"hunter2").decode()}, "auth.auth is not base64 of user:password"),
        ({"auth": base64.b64encode(b":hunter2").decode()}, "auth.auth is not base64 of user:password"),
        ({"auth": base64.b64encode(b"\xff:hunter2").decode()}, "auth.auth is not base64 of user:password"),
        ({"username": "hunter2:x"}, "auth.username contains a colon"),
        ({"password": "hunter2"}, "auth.password comes without auth.username"),
        ({"username": "a\0hunter2"}, "auth.username contains a NUL"),
        ({"registry_token": "hunter2\0"}, "auth.registry_token contains a NUL"),
        ({"identity_token": "hunter2" * 6000}, "auth.identity_token is longer than 32768 bytes"),
        ({"registry_token": "hunter2"}, "auth.registry_token .* images.allow_registry_token = true permits it"),
    ],
)
def test_what_cannot_be_used_is_refused_and_never_quoted(fields: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text) as caught:
        read(**fields)
    assert "hunter2" not in caught.value.text


def test_the_hash_tells_all_of_them_apart_and_nothing_of_them() -> None:
    given = [
        read(username="a", password="b"),
        read(username="a", password="c"),
        read(username="ab"),
        read(identity_token="a"),
        read(registry_token="a", allow=True),
    ]
    assert len({g.access for g in given if g}) == len(given)
    again = read(auth=base64.b64encode(b"a:b").decode())
    assert again is not None and given[0] is not None and again.access == given[0].access
    assert repr(given[0]) == f"PullCredentials(access='{given[0].access}')"
