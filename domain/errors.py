"""The closed set of errors. One class says what the caller should do; the text says why.

No transport codes here: `adapters/cri/status.py` holds the one table from these classes to gRPC.
Form of a text: `cannot <verb> <noun> <id>: <cause>`, lower case, the cause being the adapter's own sentence.
"""


class DaybookError(Exception):
    """Base of all refusals and failures; never raised itself."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Refusal(DaybookError):
    """The request was not carried out and nothing was appended."""


class InvalidRequest(Refusal):
    """The request itself cannot be right, whatever the state."""


class NotFound(Refusal):
    """No aggregate has this id or name."""


class NameTaken(Refusal):
    """The name belongs to another aggregate, or to the same one asked for with another configuration."""


class WrongState(Refusal):
    """The aggregate's state does not permit this command."""


class Quarantined(Refusal):
    """A record of the aggregate does not decode: nothing is done to it until a person decides."""


class InUse(Refusal):
    """Somebody else still needs the thing that should go."""


class Busy(Refusal):
    """A bounded queue is full; the same request may go through later."""


class NotReady(Refusal):
    """The daemon does not (or no longer) take this request: starting, stopping or missing a part."""


class LimitReached(Refusal):
    """A resource (disk, log, a configured bound) is used up; refused before any side effect."""


class Unsupported(Refusal):
    """Daybook does not have this feature."""


class Failure(DaybookError):
    """An effect was tried and failed; its outcome is on record."""


class TimedOut(Failure):
    """The limit of the effect, or the caller's own deadline, passed."""


class Cancelled(Failure):
    """The effect was ended because another command made it pointless."""


class RegistryUnavailable(Failure):
    """The registry could not be reached; the text begins with this word (the kubelet matches it)."""


class PullFailed(Failure):
    """The registry answered, but the image could not be had."""


class RuntimeFailed(Failure):
    """runc or conmon failed; the text carries the command, its exit code and the last line it said."""


class ExecFailed(Failure):
    """A command could not be started inside a container, or the container ended first."""


class NetworkFailed(Failure):
    """A CNI plugin or a namespace operation failed."""


class StorageFailed(Failure):
    """The image store, a mount or a file operation failed."""


class DiskFull(StorageFailed):
    """The file system has no room (or no inode, or the quota is used up) for what the effect had to write."""


class Unforeseen(Failure):
    """An effect met an error that nobody foresaw: a fault of Daybook. Told by its place, the rest is in its log."""


FAILURES: dict[str, type[DaybookError]] = {
    kind.__name__: kind
    for kind in (
        InvalidRequest,
        Busy,
        Unsupported,
        TimedOut,
        Cancelled,
        RegistryUnavailable,
        PullFailed,
        RuntimeFailed,
        ExecFailed,
        NetworkFailed,
        StorageFailed,
        DiskFull,
        Unforeseen,
    )
}
"""By the name under which an event records why an effect failed. A refusal among them came too late to be one: only
the effect could see that the request cannot be right, or that there is no room.
"""


def failure(kind: str, text: str) -> DaybookError:
    """The failure that an event recorded; an unknown name (an older log) becomes RuntimeFailed."""
    return FAILURES.get(kind, RuntimeFailed)(text)
