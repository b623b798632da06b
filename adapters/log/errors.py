"""What the log refuses or fails with. The class says what to do (domain.errors), the text says it in words."""

from domain.errors import Busy, DaybookError, InUse, InvalidRequest, LimitReached, NotReady, StorageFailed, Unsupported


class LogError(DaybookError):
    """Anything the log says; never raised itself."""


class Conflict(LogError, Busy):
    """The aggregate already has an event with this version; nothing was appended. Read again, then decide again."""


class LogFull(LogError, LimitReached):
    """The disk has no room. Nothing was appended; the same append goes through once there is space."""


class LogClosed(LogError, NotReady):
    """The log was closed; nothing was appended."""


class LogBroken(LogError, NotReady):
    """A commit failed in a way that leaves its outcome unknown; this process appends nothing more."""


class LogCorrupt(LogError, StorageFailed):
    """The log's file is damaged so that it cannot be opened or trusted to be mapped."""


class LogUnusable(LogError, StorageFailed):
    """The kernel does not let the log's directory be used: permissions, a file in its place, a failing disk."""


class LogLocked(LogError, InUse):
    """Another process (or another part of this one) has the log open for writing."""


class WrongFormat(LogError, Unsupported):
    """The directory holds something that this version of Daybook does not read."""


class CodecError(LogError, InvalidRequest):
    """A value that does not fit its declared type, or bytes that are no such value."""
