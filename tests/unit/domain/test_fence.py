"""fence: which log may be used with which state directory."""

import pytest

from domain.fence import REMEDY, objection
from domain.observations import Mark
from domain.records import Head

EMPTY, AT_9 = Head(0, b""), Head(9, b"h")
OURS, NEWER, FOREIGN = Mark("log", 9), Mark("log", 10), Mark("other", 3)

# fmt: off
CASES = [
    # head,  state mark, bundles,          objection
    (EMPTY,  None,       (),               None),
    (AT_9,   None,       (),               None),
    (AT_9,   OURS,       (),               None),
    (AT_9,   OURS,       (OURS,),          None),
    (AT_9,   None,       (OURS,),          None),
    (AT_9,   Mark("log", 1), (OURS,),      None),
    (AT_9,   OURS,       (FOREIGN,),       None),
    (AT_9,   NEWER,      (),               "the log ends at record 9, but the state directory knows of record 10"),
    (AT_9,   OURS,       (NEWER,),         "the log ends at record 9, but the state directory knows of record 10"),
    (AT_9,   None,       (NEWER,),         "the log ends at record 9, but the state directory knows of record 10"),
    (EMPTY,  OURS,       (),               "the log ends at record 0, but the state directory knows of record 9"),
    (AT_9,   FOREIGN,    (),               "the state directory belongs to log other, this log is log"),
    (EMPTY,  FOREIGN,    (OURS,),          "the state directory belongs to log other, this log is log"),
    (AT_9,   None,       (FOREIGN,),       "a bundle in the state directory belongs to log other, this log is log"),
    (AT_9,   None,       (OURS, FOREIGN),  "a bundle in the state directory belongs to log other, this log is log"),
]
# fmt: on


@pytest.mark.parametrize(("head", "state", "bundles", "why"), CASES)
def test_objection(head: Head, state: Mark | None, bundles: tuple[Mark, ...], why: str | None) -> None:
    assert objection("log", head, state, bundles) == (f"{why}; {REMEDY}" if why else None)


def test_the_remedies_are_named() -> None:
    assert "`daybook adopt`" in REMEDY
    assert "`daybook purge`" in REMEDY


def test_foreign_sequences_do_not_count() -> None:
    assert objection("log", AT_9, OURS, iter([Mark("other", 99)])) is None
