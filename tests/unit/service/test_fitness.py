"""What `daybook check` says of RuntimeDefault: judged as the daemon would, the kernel left alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from adapters.host.fitness import FAIL, OK, WARN, Fact
from adapters.oci import apparmor
from service import wiring
from service.config import Config, Network, Paths, Runtime


def told(tmp_path: Path, seccomp: str = "") -> dict[str, Fact]:
    places = Paths(str(tmp_path / "data"), str(tmp_path / "run"))
    config = Config(paths=places, runtime=replace(Runtime(), seccomp_profile=seccomp), network=Network(str(tmp_path)))
    return {fact.what: fact for fact in wiring.fitness(config)}


def test_the_profile_of_the_configuration_is_read(tmp_path: Path) -> None:
    assert (fact := told(tmp_path)["seccomp profile"]).level == OK and fact.found == "built in"
    file = tmp_path / "p.json"
    file.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    assert told(tmp_path, str(file))["seccomp profile"] == Fact(OK, "seccomp profile", str(file))
    file.write_text('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ["mkdir"]}')
    fact = told(tmp_path, str(file))["seccomp profile"]
    assert fact.level == FAIL and "syscalls[0]" in fact.found and fact.remedy


@pytest.mark.parametrize(
    ("state", "level", "found"),
    [
        (apparmor.State(), OK, "this machine has no AppArmor"),
        (apparmor.State("daybook-default", "", enabled=True), OK, "daybook-default"),
        (apparmor.State("", "no parser: install it", enabled=True), WARN, "containers run without"),
    ],
)
def test_apparmor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: apparmor.State, level: str, found: str
) -> None:
    monkeypatch.setattr(apparmor, "tried", lambda path: state)
    fact = told(tmp_path)["AppArmor"]
    assert fact.level == level and found in fact.found
    assert fact.remedy == (state.problem if level == WARN else "")
