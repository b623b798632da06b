import pytest

from adapters.oci.layout import Layout

LAYOUT = Layout("/var/lib/daybook", "/run/daybook")


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
