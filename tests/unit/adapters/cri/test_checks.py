"""Rules about single values."""

from collections.abc import Callable

import pytest

from adapters.cri import checks
from domain.errors import InvalidRequest


@pytest.mark.parametrize(
    "refused",
    [
        lambda: checks.name("n", ""),
        lambda: checks.name("n", "a" * 254),
        lambda: checks.name("n", "a;K8S_POD_NAME=b"),
        lambda: checks.name("n", "../a"),
        lambda: checks.name("n", "a\n"),
        lambda: checks.hostname("a\nroot"),
        lambda: checks.hostname("a" * 65),
        lambda: checks.hostname("a b"),
        lambda: checks.hostname("\u00e4"),
        lambda: checks.plain("f", "a\u2028b"),
        lambda: checks.path("f", "relative"),
        lambda: checks.path("f", "/a/../b"),
        lambda: checks.inside("f", "a/../../etc"),
        lambda: checks.words("f", ["two words"]),
        lambda: checks.words("f", [""]),
        lambda: checks.words("f", ["1.1.1.1\nnameserver 2.2.2.2"]),
        lambda: checks.between("f", 65536, 0, 65535),
        lambda: checks.at_least("f", -1, 0),
        lambda: checks.identity("uid", 2**31),
        lambda: checks.identity("uid", -1),
        lambda: checks.address("f", "300.1.1.1"),
        lambda: checks.keys("labels", {"": "x"}),
        lambda: checks.keys("labels", {"a\nb": "x"}),
        lambda: checks.environment([("", b"")]),
        lambda: checks.environment([("A=B", b"")]),
        lambda: checks.environment([("A\nB", b"")]),
        lambda: checks.environment([("A", b"a\0b")]),
        lambda: checks.environment([("A", b"\xff")]),
        lambda: checks.environment([("A", b"x" * 131072)]),
        lambda: checks.arguments("args", ["a\0"]),
        lambda: checks.arguments("args", ["x" * 131072]),
        lambda: checks.count("mounts", [0] * 4097),
    ],
)
def test_refuses(refused: Callable[[], object]) -> None:
    with pytest.raises(InvalidRequest):
        refused()


def test_takes_the_usual() -> None:
    assert checks.name("n", "coredns-5d78c9869d-x2x.v_1") == "coredns-5d78c9869d-x2x.v_1"
    assert checks.hostname("") == ""
    for name in ("web-0.example", "web-0.t.ns.svc.", "-a", "a_b", "." * 64):
        assert checks.hostname(name) == name
    assert checks.path("f", "") == ""
    assert checks.words("f", ["ndots:5", "fe80::1%eth0"]) == ("ndots:5", "fe80::1%eth0")
    assert checks.address("f", "fd00:0::1") == "fd00::1"
    assert list(checks.keys("labels", {"b": "1", "a": "\n"})) == ["a", "b"]
    checks.environment([("PATH", b"/bin"), ("HOME", "/ü".encode()), ("dot.ted-name", b"")])


def test_sysctls_of_namespaces_of_its_own() -> None:
    asked = {"net.ipv4.ip_forward": "1", "kernel.sem": "250 32000 100 128"}
    assert list(checks.sysctls(asked, True, True).items()) == sorted(asked.items())
    for own in ((False, True), (True, False), (False, False)):
        with pytest.raises(InvalidRequest, match="would change the host"):
            checks.sysctls(asked, *own)


def test_texts_never_hold_a_value_of_the_environment() -> None:
    for value in (b"hunter2\0", b"hunter2\xff", b"hunter2" * 20000):
        with pytest.raises(InvalidRequest) as caught:
            checks.environment([("PASSWORD", value)])
        assert "hunter2" not in caught.value.text
        assert "PASSWORD" in caught.value.text


def test_what_is_shown_is_cut_and_escaped() -> None:
    assert checks.shown("a\x1b[2J") == r"'a\x1b[2J'"
    assert len(checks.shown("x" * 1000)) < 100


ODD_NAMES = ["TOKEN=hunter2", "=hunter2", "hunter2 x", "hunter2\n", "hunter2" * 200, "a-hunter2", "\N{SNOWMAN}hunter2"]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("value", [b"hunter2\0", b"hunter2\xff", b"hunter2" * checks.VALUE_MAX])
def test_what_may_be_a_value_is_never_told(name: str, value: bytes) -> None:
    with pytest.raises(InvalidRequest, match="environment variable 3") as caught:
        checks.environment([("A", b""), ("B", b"hunter2"), (name, value)])
    assert "hunter2" not in caught.value.text


def test_a_variables_name_is_told_where_it_is_a_word() -> None:
    with pytest.raises(InvalidRequest, match=r"^environment variable 2, MY_TOKEN, contains a NUL byte$"):
        checks.environment([("A", b""), ("MY_TOKEN", b"\0")])
    with pytest.raises(InvalidRequest, match=r"^environment variable 1: its name contains '='$"):
        checks.environment([("A=B", b"")])
