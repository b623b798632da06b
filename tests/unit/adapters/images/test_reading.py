"""The files of a pull. skopeo is asked too: what it says of a table that is good TOML and nonsense."""

import shutil
from pathlib import Path

import pytest

from adapters.images import reading
from adapters.images.skopeo import Settings
from domain.errors import InvalidRequest

GOOD_POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'
GOOD_REGISTRIES = 'unqualified-search-registries = ["registry.example"]\n'


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What this machine has in /etc/containers must not matter."""
    monkeypatch.setattr(reading, "POLICY", tmp_path / "policy.json")
    monkeypatch.setattr(reading, "REGISTRIES", tmp_path / "registries.conf")
    (tmp_path / "policy.json").write_text(GOOD_POLICY)


def problem(tmp_path: Path, **more: object) -> str:
    return reading.problem(Settings(skopeo=str(tmp_path / "no-skopeo"), **more))  # type: ignore[arg-type]


def test_good_files_are_no_problem(tmp_path: Path) -> None:
    assert problem(tmp_path) == ""
    (tmp_path / "registries.conf").write_text(GOOD_REGISTRIES)
    assert problem(tmp_path) == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}", '{"default": []}', "\0\0"])
def test_a_damaged_policy_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.json").write_text(text)
    assert problem(tmp_path).startswith(str(tmp_path / "policy.json"))
    (tmp_path / "other.json").write_text(text)
    (tmp_path / "policy.json").write_text(GOOD_POLICY)
    assert problem(tmp_path, policy=tmp_path / "other.json").startswith(str(tmp_path / "other.json"))


@pytest.mark.parametrize("text", ["[[", "a = ", "[registry\n", "\0"])
def test_a_damaged_registries_file_or_part_of_it_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "registries.conf.d").mkdir()
    (tmp_path / "registries.conf.d" / "10.conf").write_text(text)
    assert problem(tmp_path).startswith(str(tmp_path / "registries.conf.d" / "10.conf"))


def test_a_file_that_is_configured_must_be_there(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert problem(tmp_path, registries_conf=gone) == f"{gone}: No such file or directory"
    assert problem(tmp_path, policy=gone) == f"{gone}: No such file or directory"
    assert problem(tmp_path, authfile=gone) == f"{gone}: No such file or directory"


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_itself_is_asked(tmp_path: Path) -> None:
    """Good TOML, and nothing that containers-registries.conf(5) knows."""
    (tmp_path / "r.conf").write_text("[[registry]]\nlocation = 7\n")
    assert "registries" in reading.problem(Settings(registries_conf=tmp_path / "r.conf"))
    (tmp_path / "r.conf").write_text(GOOD_REGISTRIES)
    assert reading.problem(Settings(registries_conf=tmp_path / "r.conf")) == ""


@pytest.mark.parametrize(
    "entry", ["registry.example", "registry.example:5000", "localhost", "10.0.0.1:80", "[::1]:5000"]
)
def test_a_registry_without_tls(entry: str) -> None:
    reading.check_insecure((entry,))


@pytest.mark.parametrize(
    "entry", ["", "http://registry.example", "registry.example/", "registry.example/team", "a b", "x:y:z"]
)
def test_what_is_no_registry_is_refused_by_name(entry: str) -> None:
    with pytest.raises(InvalidRequest, match="insecure_registries"):
        reading.check_insecure(("good.example", entry))
