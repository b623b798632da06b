"""The image aggregate, keyed by normalised reference. The CRI's image, one per id, is a join that the node makes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from domain import commands as c
from domain import events as e
from domain.decision import Accept, Already, Decision, Join, Refused, Wait
from domain.lifecycle import IMAGE_NEXT, IMAGE_PERMITTED, ImageState, Refuse
from domain.records import Now


@dataclass(frozen=True, slots=True)
class PulledImage:
    """What a reference meant when it was pulled; fields as in the event `ImagePulled`."""

    image_id: str
    digest: str
    layers: tuple[str, ...]
    size: int
    user: str = ""
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """Everything the log says about one reference. `held`: what it means now, also while it is pulled again.

    `source`, `access`: of the newest pull, as in the event `ImagePullRequested`.
    """

    reference: str
    state: ImageState
    held: PulledImage | None = None
    source: str = ""
    error: str = ""
    text: str = ""
    access: str = ""


def decide(image: Image, command: c.Command, now: Now) -> Decision:
    """The decision on a command to a reference, known or not (ABSENT)."""
    cell = IMAGE_PERMITTED[image.state, type(command)]
    if isinstance(cell, Refuse):
        return Refused(cell.error(f"cannot {c.COMMAND_NAME[type(command)]} image {image.reference}: {cell.why}"))
    if isinstance(cell, Already | Join | Wait):
        return cell
    return Accept(((e.image_key(image.reference), BUILD[cell](image, command, now)),))


def _pulled(_: Image, command: c.RecordPulled, now: Now) -> e.Event:
    held: PulledImage = command.image
    return e.ImagePulled(held.image_id, held.digest, held.layers, held.size, held.user, held.stop_signal)


Builder = Callable[[Image, Any, Now], e.Event]

BUILD: Mapping[type, Builder] = {
    e.ImagePullRequested: lambda _, cmd, now: e.ImagePullRequested(cmd.source, cmd.access),
    e.ImagePulled: _pulled,
    e.ImagePullFailed: lambda _, cmd, now: e.ImagePullFailed(cmd.error, cmd.text),
    e.ImageRemoveRequested: lambda _, cmd, now: e.ImageRemoveRequested(),
    e.ImageRemoved: lambda _, cmd, now: e.ImageRemoved(),
    e.ImageLost: lambda _, cmd, now: e.ImageLost(cmd.text),
}
"""How each event that a command may lead to gets its values."""


def evolve(image: Image | None, event: e.Event, reference: str = "") -> Image:
    """The image after the event. Raises KeyError where the table has no such row: the log is not ours."""
    image = image or Image(reference, ImageState.ABSENT)
    state = IMAGE_NEXT[image.state, type(event)]
    if isinstance(event, e.ImagePullFailed):
        state = ImageState.PRESENT if image.held else ImageState.ABSENT
    return replace(image, state=state, **CHANGES[type(event)](image, event))


def _after_pulled(_: Image, event: e.ImagePulled) -> dict[str, Any]:
    held = PulledImage(event.image_id, event.digest, event.layers, event.size, event.user, event.stop_signal)
    return {"held": held, "error": "", "text": ""}


Change = Callable[[Image, Any], dict[str, Any]]

CHANGES: Mapping[type, Change] = {
    e.ImagePullRequested: lambda _, ev: {"source": ev.source, "access": ev.access, "error": "", "text": ""},
    e.ImagePulled: _after_pulled,
    e.ImagePullFailed: lambda _, ev: {"error": ev.error, "text": ev.text},
    e.ImageRemoveRequested: lambda _, ev: {},
    e.ImageRemoved: lambda _, ev: {"held": None},
    e.ImageLost: lambda _, ev: {"held": None, "text": ev.text},
}
"""What a state remembers of each event, besides the state itself."""
