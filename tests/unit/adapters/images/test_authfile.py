"""The authfile of one run: what stands in it, who may read it, what it takes over."""

import base64
import json
from pathlib import Path

import pytest

from adapters.images import authfile
from adapters.images.reference import parse
from domain.config import PullCredentials
from domain.errors import StorageFailed

ME = PullCredentials("h", "me", "geheim")
WANTED = parse("q.io:1/a/b:1")


def entries(path: Path) -> dict[str, dict[str, str]]:
    return dict(json.loads(path.read_text())["auths"])


def test_it_is_private_and_goes(tmp_path: Path) -> None:
    path = authfile.write(tmp_path, WANTED, ME, None)
    assert path.stat().st_mode & 0o777 == 0o600
    assert entries(path) == {"q.io:1/a/b": {"auth": base64.b64encode(b"me:geheim").decode()}}
    authfile.remove(tmp_path)
    authfile.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_machines_own_entries_stay_in_force_for_others(tmp_path: Path) -> None:
    host = tmp_path / "host.json"
    host.write_text(
        json.dumps({"auths": {"q.io:1": {"auth": "x"}, "mirror": {"auth": "y"}}, "credHelpers": {"a": "b"}})
    )
    path = authfile.write(tmp_path, WANTED, PullCredentials("h", identity_token="tok"), host)
    assert set(entries(path)) == {"q.io:1", "mirror", "q.io:1/a/b"}
    assert entries(path)["q.io:1/a/b"]["identitytoken"] == "tok"
    assert json.loads(path.read_text())["credHelpers"] == {"a": "b"}
    assert "tok" not in host.read_text()


@pytest.mark.parametrize("content", [None, "{", "[]", "x" * (2**20 + 1)])
def test_a_file_of_the_machine_that_cannot_be_used_is_named(tmp_path: Path, content: str | None) -> None:
    host = tmp_path / "host.json"
    if content is not None:
        host.write_text(content)
    with pytest.raises(StorageFailed, match=f"images.auth_file {host}"):
        authfile.write(tmp_path, WANTED, ME, host)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / authfile.NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailed, match="cannot write credentials"):
        authfile.write(tmp_path, WANTED, ME, None)
    assert not (tmp_path / "elsewhere").exists()


def test_a_bearer_token_needs_no_file() -> None:
    assert authfile.needed(ME) and authfile.needed(PullCredentials("h", identity_token="t"))
    assert not authfile.needed(PullCredentials("h", registry_token="t")) and not authfile.needed(None)
