"""Command lines and what surrounds them, with a script in skopeo's place."""

import asyncio
import base64
import json
from pathlib import Path

import pytest

from adapters.images.process import Ledger
from adapters.images.reference import parse
from adapters.images.skopeo import Settings, Skopeo, source_of
from domain.config import PullCredentials
from domain.errors import DaybookError, InvalidRequest, PullFailed

SCRIPT = """#!/bin/sh
for a in "$@"; do echo "$a"; done > {out}/argv
env > {out}/env
cat "$(dirname "$2")/auth.json" > {out}/auth 2>/dev/null
case " $* " in *" --raw "*) echo '{{}}';; esac
exit 0
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    script = tmp_path / "skopeo"
    script.write_text(SCRIPT.format(out=tmp_path))
    script.chmod(0o755)
    made = Ledger(tmp_path / "run")
    made.make()
    return made


def skopeo(tmp_path: Path, **settings: object) -> Skopeo:
    made = Settings(skopeo=str(tmp_path / "skopeo"), **settings)  # type: ignore[arg-type]
    return Skopeo(tmp_path / "root", tmp_path / "state", tmp_path, made)


def inspect(
    tmp_path: Path, ledger: Ledger, reference: str, credentials: PullCredentials | None = None, **s: object
) -> list[str]:
    wanted = parse(reference)
    work = skopeo(tmp_path, **s).inspect(wanted, source_of(wanted, ""), ledger, credentials)
    assert asyncio.run(work) == b"{}\n"
    return (tmp_path / "argv").read_text().splitlines()


def test_certificates_are_checked_except_on_the_loopback_and_where_configured(tmp_path: Path, ledger: Ledger) -> None:
    plain = "--tls-verify=false"
    assert plain not in inspect(tmp_path, ledger, "q.io/x")
    assert plain in inspect(tmp_path, ledger, "127.0.0.1:5000/x")
    assert plain in inspect(tmp_path, ledger, "q.io/x", insecure=("q.io",))
    assert plain not in inspect(tmp_path, ledger, "q.io:1/x", insecure=("q.io",))


def test_a_platform_is_told_before_the_command(tmp_path: Path, ledger: Ledger) -> None:
    wanted = parse("q.io/x")
    work = skopeo(tmp_path).copy(wanted, source_of(wanted, ""), ledger, None, ("--override-arch", "386"))
    with pytest.raises(DaybookError):  # the script writes no digest
        asyncio.run(work)
    argv = (tmp_path / "argv").read_text().splitlines()
    assert argv.index("--override-arch") < argv.index("386") < argv.index("copy")


def test_a_secret_is_in_a_private_file_only(tmp_path: Path, ledger: Ledger) -> None:
    argv = inspect(tmp_path, ledger, "q.io/x", PullCredentials("h", "me", "geheim"))
    assert "geheim" not in "".join(argv) + (tmp_path / "env").read_text()
    auth = json.loads((tmp_path / "auth").read_text())["auths"]["q.io/x"]["auth"]
    assert base64.b64decode(auth) == b"me:geheim"
    assert (ledger.directory / "auth.json").stat().st_mode & 0o777 == 0o600
    inspect(tmp_path, ledger, "q.io/x", PullCredentials("h", identity_token="tok"))
    assert json.loads((tmp_path / "auth").read_text())["auths"]["q.io/x"]["identitytoken"] == "tok"


def test_nothing_of_the_daemons_environment_but_proxies(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://p:1")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/x")
    monkeypatch.setenv("AWS_SECRET", "s")
    inspect(tmp_path, ledger, "q.io/x")
    env = (tmp_path / "env").read_text()
    assert "https_proxy=http://p:1" in env and f"HOME={ledger.tmp}" in env
    assert "REGISTRY_AUTH_FILE" not in env and "AWS_SECRET" not in env


def test_configured_files_come_first(tmp_path: Path, ledger: Ledger) -> None:
    argv = inspect(tmp_path, ledger, "q.io/x", policy=Path("/p"), registries_conf=Path("/r"), authfile=Path("/a"))
    assert argv[:6] == ["--tmpdir", str(ledger.tmp), "--policy", "/p", "--registries-conf", "/r"]
    assert argv[argv.index("--authfile") + 1] == "/a"


def test_a_copy_without_a_digest_is_no_success(tmp_path: Path, ledger: Ledger) -> None:
    (ledger.directory / "digest").write_text("nonsense")
    with pytest.raises(PullFailed, match="nonsense"):
        asyncio.run(skopeo(tmp_path).copy(parse("q.io/x"), "docker://q.io/x:latest", ledger))
    argv = (tmp_path / "argv").read_text().splitlines()
    assert argv[-1] == f"containers-storage:[overlay@{tmp_path}/root+{tmp_path}/state]q.io/x:latest"


@pytest.mark.parametrize(
    "source", ["oci:/a/b", "oci:/a/b:tag", "docker-archive:/a.tar", "docker-archive:/a.tar:q.io/x:1"]
)
def test_sources(source: str) -> None:
    assert source_of(parse("x"), source) == source


def test_a_source_that_is_none() -> None:
    assert source_of(parse("x"), "") == "docker://docker.io/library/x:latest"
    for source in ("oci:a", "--help", "docker-daemon:x", "oci:/a\0b", "oci:/" + "a" * 5000):
        with pytest.raises(InvalidRequest):
            source_of(parse("x"), source)
