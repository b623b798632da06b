"""Whether a log belongs to a state directory: the fence against a lost, restored or foreign log.

Marks are written at each start and beside each bundle. A log that the marks do not vouch for would call living
containers unknown, so the daemon refuses to start and a person decides: `daybook adopt` or `daybook purge`.
"""

from collections.abc import Iterable

from domain.observations import Mark
from domain.records import Head

REMEDY = (
    "`daybook adopt` declares this log to be the truth and ends what only the other one knew; "
    "`daybook purge` ends every container of the state directory and begins anew"
)


def objection(log_id: str, head: Head, state: Mark | None, bundles: Iterable[Mark]) -> str | None:
    """Why this log must not be used with this state directory, or None. `state`: the directory's own mark."""
    if state is not None and state.log_id != log_id:
        return f"the state directory belongs to log {state.log_id}, this log is {log_id}; {REMEDY}"
    marks = list(bundles)
    foreign = next((m for m in marks if m.log_id != log_id), None)
    if state is None and foreign is not None:
        return f"a bundle in the state directory belongs to log {foreign.log_id}, this log is {log_id}; {REMEDY}"
    vouched = [m for m in (state, *marks) if m is not None and m.log_id == log_id]
    newest = max((m.seq for m in vouched), default=0)
    if newest > head.seq:
        return f"the log ends at record {head.seq}, but the state directory knows of record {newest}; {REMEDY}"
    return None
