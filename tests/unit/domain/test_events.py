"""events: wire names are literals, one per class, and keys can be taken apart."""

import re

from domain import events as e
from tests.unit.domain.values import check_values, classes


def test_values_are_frozen_and_slotted() -> None:
    check_values(e)


def test_every_event_has_one_wire_name() -> None:
    values = {e.Deadline, e.Binary, e.User}
    assert set(e.WIRE.values()) == set(classes(e)) - values
    assert len(e.WIRE_NAME) == len(e.WIRE)
    for name, kind in e.WIRE.items():
        assert re.fullmatch(r"(container|sandbox|image|node)\.[a-z_]+/[1-9]\d*", name)
        assert e.WIRE_NAME[kind] == name


def test_wire_names_are_the_class_names_in_words() -> None:
    for name, kind in e.WIRE.items():
        words = re.sub(r"(?<!^)([A-Z])", r"_\1", kind.__name__).lower()
        assert name.split("/")[0] in (words.replace("_", ".", 1), f"node.{words}")


def test_upcasters_lead_to_a_living_name() -> None:
    for old, (new, _) in e.UPCASTERS.items():
        assert old not in e.WIRE
        assert new in e.WIRE or new in e.UPCASTERS


def test_a_pull_on_record_before_there_were_credentials_had_none() -> None:
    for payload in ({}, {"source": "oci:/x"}):
        name, up = e.UPCASTERS["image.pull_requested/1"]
        assert e.WIRE[name](**up(payload)) == e.ImagePullRequested(payload.get("source", ""), "")


def test_keys() -> None:
    assert e.split_key(e.container_key("x")) == ("container", "x")
    assert e.split_key(e.sandbox_key("x")) == ("sandbox", "x")
    assert e.split_key(e.image_key("docker.io/library/x:1")) == ("image", "docker.io/library/x:1")
    assert e.split_key(e.NODE_KEY) == ("node", "")
    assert e.short_name(e.ContainerExited) == "container.exited"
