import pytest

from adapters.oci.layout import Layout

LOG = "0123456789abcdef" * 2
LAYOUT = Layout("/var/lib/daybook", "/run/daybook", LOG)


def test_everything_of_a_container_lies_under_its_id() -> None:
    one = "a" * 64
    paths = LAYOUT.container(one)
    assert paths.config == f"/var/lib/daybook/containers/{one}/config.json"
    assert paths.fifo == f"/run/daybook/runc/{one}/exec.fifo"
    assert LAYOUT.sandbox(one).shm == f"/run/daybook/sandboxes/{one}/shm"


@pytest.mark.parametrize("wrong", ["", "a" * 63, "a" * 65, "A" * 64, "../" + "a" * 61, "a" * 64 + "\n", "a/" * 32])
def test_nothing_else_is_joined_to_a_path(wrong: str) -> None:
    with pytest.raises(ValueError, match="not an id"):
        LAYOUT.container(wrong)
    with pytest.raises(ValueError, match="not an id"):
        LAYOUT.sandbox(wrong)


def test_a_network_is_pinned_where_cni_daemons_look_for_it() -> None:
    one = "a" * 64
    paths = LAYOUT.sandbox(one)
    assert paths.net == paths.pin("net") == f"/var/run/netns/daybook-0123456789ab-{one}"
    assert paths.uts == f"/run/daybook/sandboxes/{one}/uts" and paths.ipc == f"/run/daybook/sandboxes/{one}/ipc"
    assert LAYOUT.pinned_by(f"daybook-0123456789ab-{one}") == one


@pytest.mark.parametrize(
    "name",
    [
        "",
        "blue",
        "cni-1f3a5d7c",
        f"daybook-{'a' * 64}",
        f"daybook-ba9876543210-{'a' * 64}",
        f"daybook-0123456789ab-{'a' * 63}",
        f"daybook-0123456789ab-{'A' * 64}",
        f"daybook-0123456789ab-{'a' * 64}x",
        f"xdaybook-0123456789ab-{'a' * 64}",
        f"daybook-0123456789abc-{'a' * 64}",
    ],
)
def test_no_other_name_is_ours(name: str) -> None:
    assert LAYOUT.pinned_by(name) == ""
