"""Which kernel parameters a pod may set, and what becomes of their names."""

import pytest

from domain.errors import InvalidRequest
from domain.sysctls import IPC, NETWORK_DEFAULTS, SYSCTLS_MAX, VALUE_MAX, parts_of, settings, split


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("net.ipv4.ip_forward", ("net", "ipv4", "ip_forward")),
        ("net/ipv4/ip_forward", ("net", "ipv4", "ip_forward")),
        ("net/ipv4/conf/eth0.100/forwarding", ("net", "ipv4", "conf", "eth0.100", "forwarding")),
        ("net.ipv4.conf.eth0/100.forwarding", ("net", "ipv4", "conf", "eth0.100", "forwarding")),
        ("kernel.shm_rmid_forced", ("kernel", "shm_rmid_forced")),
    ],
)
def test_the_first_separator_separates(name: str, parts: tuple[str, ...]) -> None:
    assert parts_of(name) == parts


def test_defaults_come_first_and_give_way() -> None:
    told = [(one.name, one.value, one.asked) for one in settings({"net.ipv4.ip_forward": "1"}, True, False)]
    assert told == [*((k, v, False) for k, v in NETWORK_DEFAULTS.items()), ("net.ipv4.ip_forward", "1", True)]
    own = settings({"net/ipv4/ip_unprivileged_port_start": "1024"}, True, True)
    assert [(one.parts[-1], one.value) for one in own] == [
        ("ping_group_range", "0 2147483647"),
        ("ip_unprivileged_port_start", "1024"),
    ]
    assert settings({}, False, True) == ()


def test_every_ipc_parameter_needs_an_ipc_namespace() -> None:
    for parts in IPC:
        name = ".".join(parts)
        assert settings({name: "1"}, False, True)[0].parts == parts
        with pytest.raises(InvalidRequest, match=f"sysctl '{name}' would change the host"):
            settings({name: "1"}, True, False)


def test_every_network_parameter_needs_a_network() -> None:
    with pytest.raises(InvalidRequest, match=r"sysctl 'net.core.somaxconn' would change the host"):
        settings({"net.core.somaxconn": "1"}, False, True)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "net",
        "net.",
        ".net.x",
        "net..x",
        "net./x",
        "net.ipv4.../../kernel.core_pattern",
        "net/../kernel/core_pattern",
        "../net.x",
        "net.ipv4.x=1+kernel.core_pattern",
        "net.ipv4.x\n",
        "net.ipv4.ü",
        "net.ipv4.X",
        "net.ipv4.conf.*.forwarding",
        "net." + "x" * 300,
        "kernel.core_pattern",
        "kernel.shm_next_id",
        "kernel.hostname",
        "kernel/msgmax/x",
        "vm.swappiness",
        "fs.file-max",
        "fs.mqueue",
        "netx.y",
    ],
)
def test_what_is_no_name_or_not_a_pods(name: str) -> None:
    with pytest.raises(InvalidRequest, match="sysctl "):
        settings({name: "1"}, True, True)


@pytest.mark.parametrize(
    "value", ["", " ", "1\n2", "1\0", "1+kernel.core_pattern=x", "\x1b[2J", "é", "1" * (VALUE_MAX + 1)]
)
def test_what_is_no_value(value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"sysctl net\.ipv4\.tcp_rmem"):
        settings({"net.ipv4.tcp_rmem": value}, True, True)


def test_values_as_the_kernel_shows_them_are_taken() -> None:
    assert settings({"net.ipv4.tcp_rmem": "4096\t87380\t6291456"}, True, True)[-1].value == "4096\t87380\t6291456"


def test_one_parameter_by_two_names() -> None:
    with pytest.raises(InvalidRequest, match="is given twice"):
        settings({"net.ipv4.ip_forward": "1", "net/ipv4/ip_forward": "0"}, True, True)


def test_their_number_is_bounded() -> None:
    with pytest.raises(InvalidRequest, match=f"more than {SYSCTLS_MAX}"):
        settings({f"net.ipv4.x{i}": "1" for i in range(SYSCTLS_MAX + 1)}, True, True)


@pytest.mark.parametrize(
    ("name", "interface"),
    [
        ("net.ipv4.conf.eth0.arp_ignore", "eth0"),
        ("net.ipv6.conf.eth0.accept_ra", "eth0"),
        ("net.ipv6.conf.eth0.disable_ipv6", "eth0"),
        ("net.ipv4.neigh.eth0.gc_stale_time", "eth0"),
        ("net.ipv6.neigh.net1.retrans_time_ms", "net1"),
        ("net.mpls.conf.eth0.input", "eth0"),
        ("net/ipv4/conf/eth0.100/forwarding", "eth0.100"),
        ("net.ipv4.conf.eth0/100.forwarding", "eth0.100"),
        ("net.ipv4.conf.all.arp_ignore", ""),
        ("net.ipv4.conf.default.arp_ignore", ""),
        ("net.ipv6.conf.all.disable_ipv6", ""),
        ("net.ipv6.conf.default.disable_ipv6", ""),
        ("net.ipv6.conf.lo.disable_ipv6", ""),
        ("net.ipv4.neigh.default.gc_thresh1", ""),
        ("net.ipv4.ip_forward", ""),
        ("net.core.somaxconn", ""),
        ("net.ipv4.conf.eth0", ""),
        ("kernel.shm_rmid_forced", ""),
    ],
)
def test_what_is_about_one_interface_comes_later(name: str, interface: str) -> None:
    one = settings({name: "1"}, True, True)[-1]
    assert one.interface == interface
    now, later = split((one,))
    assert (now, later) == (((), (one,)) if interface else ((one,), ()))


def test_the_more_general_comes_first() -> None:
    """The kernel writes `ip_forward` over every interface's forwarding, and `all` over the default's."""
    names = [
        "net.ipv4.ip_forward",
        "net.ipv4.conf.all.forwarding",
        "net.ipv4.conf.default.forwarding",
        "net.ipv4.conf.lo.forwarding",
    ]
    given = settings(dict.fromkeys(sorted(names), "1"), True, True)
    assert [one.name for one in given if one.asked] == names


def test_one_of_an_interface_would_change_the_host_too() -> None:
    with pytest.raises(InvalidRequest, match=r"sysctl 'net.ipv4.conf.eth0.arp_ignore' would change the host"):
        settings({"net.ipv4.conf.eth0.arp_ignore": "1"}, False, True)
