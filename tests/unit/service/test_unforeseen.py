"""What is said of an error that nobody foresaw."""

import json

from service.unforeseen import place, told


def test_class_and_places_below_our_tree_and_nothing_else() -> None:
    try:
        raising("hunter2")
    except KeyError as error:
        first, second = told(error).split(" < ")
        assert first.startswith("unforeseen KeyError at tests/unit/service/test_unforeseen.py:")
        assert first.endswith(" raising") and second.endswith(" test_class_and_places_below_our_tree_and_nothing_else")
        assert place(error) == first and "hunter2" not in told(error)


def raising(secret: str) -> None:
    raise KeyError(secret)


def test_foreign_files_go_by_their_name() -> None:
    try:
        json.loads("nonsense")
    except ValueError as error:
        assert place(error).startswith("unforeseen JSONDecodeError at decoder.py:")
    assert told(ValueError("never raised")) == "unforeseen ValueError at an unknown place"
