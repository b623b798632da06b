"""No profile becomes laxer on its way: whatever a file says, the container has that much refused, or is not made.

Profiles are made up, then misspelled in the ways that people do; the answer is an error or has all the restrictions
that were meant. Whether a call is refused is asked of a model, of the document and of the OCI form alike.
"""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.oci import seccomp, seccomp_file
from domain.errors import InvalidRequest, Unsupported
from tests.support.seccomp_model import done, meant

NAMES = ("execve", "mkdir", "mount", "socket")
ACTIONS = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS")
CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_KILL")
VALUES = st.sampled_from((0, 1, 2, 38, 40, 2**32 + 38, 2**64 - 1))
CALLS = [(name, (a, b, 0, 0, 0, 0)) for name in NAMES for a in (0, 1, 3, 38, 40, 2**32 + 38, 2**64 - 1) for b in (0, 1)]


def one_of(names: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.sampled_from(names)


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    op, value = draw(one_of(seccomp.OPERATORS)), draw(VALUES)
    two = draw(VALUES) & value if op == seccomp.MASKED else 0
    return {"index": draw(st.integers(0, 1)), "op": op, "value": value, "valueTwo": two}


CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "caps": st.lists(one_of(CAPABILITIES), max_size=2),
        "arches": st.lists(one_of(("amd64", "arm64")), max_size=1),
    },
)
RULE = st.fixed_dictionaries(
    {"names": st.lists(one_of(NAMES), min_size=1, max_size=3, unique=True), "action": one_of(ACTIONS)},
    optional={"args": st.lists(arguments(), max_size=2), "includes": CONDITIONS, "excludes": CONDITIONS},
)
DOCUMENT = st.fixed_dictionaries({"defaultAction": one_of(ACTIONS), "syscalls": st.lists(RULE, max_size=5)})


def never_laxer(original: dict[str, Any], text: str, capabilities: list[str]) -> bool:
    """False where the profile was refused."""
    try:
        made = seccomp.convert(seccomp_file.parse("p", text.encode()), capabilities, "x86_64")
    except (InvalidRequest, Unsupported):
        return False
    for name, call in CALLS:
        expected = meant(original, capabilities, name, call)
        assert done(made, name, call)[0] >= expected, f"{name}{call} in {json.dumps(made)}"
    return True


@settings(deadline=None, max_examples=300)
@given(DOCUMENT, st.lists(one_of(CAPABILITIES), unique=True))
def test_as_it_is_written(document: dict[str, Any], capabilities: list[str]) -> None:
    never_laxer(document, json.dumps(document), capabilities)


ON_ONE_CALL = st.fixed_dictionaries(
    {"names": st.just(["mkdir"]), "action": one_of(ACTIONS), "args": st.lists(arguments(), max_size=2)}
)


@settings(deadline=None, max_examples=500)
@given(one_of(ACTIONS), st.lists(ON_ONE_CALL, min_size=2, max_size=3))
def test_rules_that_overlap(default: str, rules: list[dict[str, Any]]) -> None:
    """Two conditions on one argument are alternatives to runc, whatever they exclude together."""
    starts = {"names": ["execve"], "action": "SCMP_ACT_ALLOW"}
    document = {"defaultAction": default, "syscalls": [starts, *rules]}
    never_laxer(document, json.dumps(document), [])


# --- misspelled ------------------------------------------------------------------------------------------------------


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [(value, key) for key, _ in inner]
    return found + [place for _, below in inner for place in places(below)] if found else []


def misspelled(draw: st.DrawFn, document: dict[str, Any]) -> str:
    """One mistake of a person's at one place of the document, as text."""
    container, key = draw(st.sampled_from(places(document)))
    old = container[key]
    kind = draw(st.integers(0, 7))
    if kind == 0 and isinstance(container, dict):
        container[draw(st.sampled_from((key.upper(), key.title(), key.swapcase())))] = container.pop(key)
    elif kind == 1:
        container[key] = [old]
    elif kind == 2:
        container[key] = {"value": old} if not isinstance(old, list) else {str(n): item for n, item in enumerate(old)}
    elif kind == 3:
        container[key] = old[0] if isinstance(old, list) and len(old) == 1 else str(old)
    elif (
        kind == 4
        and isinstance(container, dict)
        and key not in ("args", "includes", "excludes", "syscalls", "valueTwo")
    ):
        del container[key]
    elif kind == 5 and isinstance(container, dict):
        container[f"{key}s"] = container.pop(key)
    elif kind == 6 and isinstance(old, (int, str)):
        container[key] = -old if isinstance(old, int) else f"{old}X"
    elif kind == 7 and isinstance(container, dict):
        return json.dumps(document).replace(f'"{key}":', f'"{key.upper()}": null, "{key}":')
    return json.dumps(document)


@settings(deadline=None, max_examples=500)
@given(st.data(), DOCUMENT, st.lists(one_of(CAPABILITIES), unique=True))
def test_misspelled(data: st.DataObject, document: dict[str, Any], capabilities: list[str]) -> None:
    text = data.draw(st.composite(misspelled)(json.loads(json.dumps(document))))
    never_laxer(document, text, capabilities)


def test_some_of_both_kinds_are_taken() -> None:
    """What is asked above is not asked of refused profiles alone."""
    allowed = {"names": ["execve"], "action": "SCMP_ACT_ALLOW"}
    plain = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allowed]}
    assert never_laxer(plain, json.dumps(plain), [])
    assert never_laxer(plain, json.dumps(plain).upper().replace("EXECVE", "execve"), [])
