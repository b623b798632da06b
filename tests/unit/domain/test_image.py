"""image: the values that events carry and what a state remembers of them. (Which event follows: test_lifecycle.)"""

import pytest

from domain import commands as c
from domain import events as e
from domain import image as images
from domain.decision import Accept
from domain.image import Image
from domain.lifecycle import ImageState
from tests.golden.domain.render import image_in
from tests.unit.domain import builders as b

I = ImageState  # noqa: E741


def test_a_pull_remembers_what_the_reference_means() -> None:
    held = b.pulled(user="u", stop_signal="SIGINT")
    pulling = image_in(I.PULLING)
    assert pulling is not None
    decision = images.decide(pulling, c.RecordPulled(b.REF, held), b.NOW)
    assert isinstance(decision, Accept)
    assert decision.events[0][0] == e.image_key(b.REF)
    assert images.evolve(pulling, decision.events[0][1]).held == held


def test_what_was_present_stays_visible_until_the_outcome() -> None:
    again = image_in(None, again=True)
    assert again is not None
    assert (again.state, again.held) == (I.PULLING, b.pulled())
    failed = images.evolve(again, e.ImagePullFailed("PullFailed", "no"))
    assert (failed.state, failed.held, failed.error) == (I.PRESENT, b.pulled(), "PullFailed")
    moved = images.evolve(again, e.ImagePulled(b.ID_B, "d", (), 1))
    assert moved.held is not None
    assert moved.held.image_id == b.ID_B


def test_a_first_pull_that_fails_leaves_nothing() -> None:
    failed = image_in(I.ABSENT)
    assert failed is not None
    assert (failed.held, failed.error, failed.text) == (None, "PullFailed", "no")
    again = images.evolve(failed, e.ImagePullRequested("oci:/x"))
    assert (again.source, again.error, again.text) == ("oci:/x", "", "")


@pytest.mark.parametrize("event", [(e.ImageRemoveRequested(), e.ImageRemoved()), (e.ImageLost("gone"),)])
def test_removed_and_lost_are_absent(event: tuple[e.Event, ...]) -> None:
    held = image_in(I.PRESENT)
    for one in event:
        held = images.evolve(held, one)
    assert held is not None
    assert (held.state, held.held) == (I.ABSENT, None)


def test_unknown_is_absent() -> None:
    assert images.evolve(None, e.ImagePullRequested(), b.REF) == Image(b.REF, I.PULLING)


def test_an_event_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(KeyError):
        images.evolve(None, e.ImageRemoved(), b.REF)
