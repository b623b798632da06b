"""What plugins answer, of every version, and hostile."""

import json
from typing import Any

import pytest

from adapters.network.result import (
    BadResult,
    addresses,
    attached,
    error_of,
    in_version,
    parse,
    preferred,
    without_hosts_addresses,
)

INTERFACES = [
    {"name": "br0"},
    {"name": "veth1"},
    {"name": "eth0", "sandbox": "/ns"},
    {"name": "eth1", "sandbox": "/ns"},
]


def ip(address: str, interface: Any = 2, **more: Any) -> dict[str, Any]:
    return {"address": address, "interface": interface, **more}


def test_only_eth0_of_the_pod_counts() -> None:
    result = {
        "interfaces": [*INTERFACES, {"name": "eth0"}],
        "ips": [
            ip("10.0.0.1/24", 0),
            ip("10.0.0.2/24"),
            ip("10.0.0.3/24", 3),
            ip("10.0.0.4/24", 4),
            ip("fd00::0:5/64"),
        ],
    }
    assert addresses(result) == ("10.0.0.2", "fd00::5")


def test_an_address_without_interface_and_a_repeated_one() -> None:
    assert addresses({"ips": [{"version": "4", "address": "10.0.0.2/24"}, {"address": "10.0.0.2/24"}]}) == ("10.0.0.2",)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"ips": []},
        {"ips": None},
        {"ips": "10.0.0.1"},
        {"ips": ["10.0.0.1/8"]},
        {"ips": [{}]},
        {"ips": [ip("10.0.0.1/24", 0)], "interfaces": INTERFACES},
        {"ips": [ip("10.0.0.1/24", -1)], "interfaces": INTERFACES},
        {"ips": [ip("10.0.0.1/24", True)], "interfaces": INTERFACES},
        {"ips": [ip("10.0.0.1/24", "2")], "interfaces": INTERFACES},
        {"ips": [ip("10.0.0.1/24", 2)], "interfaces": [1, 2, 3]},
        {"ips": [ip("10.0.0.1/24")], "interfaces": {}},
        {"ips": [{"address": "10.0.0.1/33"}]},
        {"ips": [{"address": 167772161}]},
        {"ips": [{"address": "fe80::1%eth0/64"}]},
        {"ips": [{"address": "0.0.0.0/0"}]},
        {"ips": [{"address": "127.0.0.1/8"}]},
        {"ips": [{"address": "ff02::1/64"}]},
        {"ips": [{"address": "10.0.0.1/24"}] * 33},
    ],
)  # fmt: skip
def test_no_usable_address(result: dict[str, Any]) -> None:
    with pytest.raises(BadResult):
        addresses(result)


def test_preference_keeps_the_order_within_a_family() -> None:
    ips = ("fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2")
    assert preferred(ips, "cni") == ips
    assert preferred(ips, "ipv4") == ("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")
    assert preferred(ips, "ipv6") == ("fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2")


def test_versions() -> None:
    new = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/8"}, {"address": "fd00::1/64"}]}
    old = in_version(new, "0.4.0")
    assert (old["cniVersion"], [each["version"] for each in old["ips"]]) == ("0.4.0", ["4", "6"])
    assert in_version(old, "1.0.0") == new


def test_the_result_is_bounded() -> None:
    result = {"ips": [{"address": "10.0.0.1/8"}], "more": "x" * 65_000}
    assert json.loads(attached(result, "cni").result) == result
    with pytest.raises(BadResult, match="65536 at most"):
        attached({**result, "more": "x" * 65_536}, "cni")


@pytest.mark.parametrize("out", [b"", b" \n", b"[]", b"\xff\xfe\xff", b"{", b'"x"', b'{"a": Infinity}'])
def test_what_is_no_result(out: bytes) -> None:
    with pytest.raises(BadResult):
        parse(out)


def test_errors() -> None:
    assert error_of(b'{"code": 7, "msg": "bad", "details": "very"}') == "bad; very (code 7)"
    assert error_of(b'{"msg": "bad", "details": 3, "code": "x"}') == "bad"
    assert error_of(b'{"code": 7}') == error_of(b"panic") == error_of(b"") == ""


@pytest.mark.parametrize(
    "interfaces", [None, "x", {}, [], [1, None, "x"], [{"name": "eth0", "sandbox": "/n", "mac": "m"}]]
)
def test_what_has_no_hardware_address_on_the_host(interfaces: object) -> None:
    given = {"interfaces": interfaces, "ips": []}
    assert without_hosts_addresses(given) == given
    assert without_hosts_addresses({"ips": []}) == {"ips": []}


def test_hardware_addresses_on_the_host_are_left_out() -> None:
    pods = {"name": "eth0", "mac": "02:01", "sandbox": "/var/run/netns/x"}
    given = {
        "interfaces": [{"name": "br0", "mac": "02:02", "mtu": 1500}, pods, {"name": "v", "mac": "m", "sandbox": ""}]
    }
    eased = without_hosts_addresses(given)
    assert eased == {"interfaces": [{"name": "br0", "mtu": 1500}, pods, {"name": "v", "sandbox": ""}]}
    assert given["interfaces"][0]["mac"] == "02:02"
