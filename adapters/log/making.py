"""Makes frozen slotted dataclasses at half the price of their own `__init__`: a replay makes three for every record.

As `dataclasses` itself does, the function is compiled from text that only field names enter.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def makable(kind: type) -> bool:
    """Whether making the class does nothing but set fields, with defaults that all instances may share."""
    plain = all(field.default_factory is dataclasses.MISSING for field in dataclasses.fields(kind))
    return plain and hasattr(kind, "__slots__") and not hasattr(kind, "__post_init__")


@cache
def maker(kind: type[T]) -> Callable[..., T]:
    """Takes the fields as `kind` itself does, for a class that is `makable`."""
    assert makable(kind), f"{kind.__name__} does more than set its fields"
    names: dict[str, Any] = {"new_": object.__new__, "kind_": kind}
    parameters, lines = [], []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        names[f"set_{field.name}"] = getattr(kind, field.name).__set__
        names[f"default_{field.name}"] = field.default
        default = "" if field.default is dataclasses.MISSING else f"=default_{field.name}"
        parameters.append(field.name + default)
        lines.append(f"    set_{field.name}(made_, {field.name})")
    text = "\n".join([f"def make({', '.join(parameters)}):", "    made_ = new_(kind_)", *lines, "    return made_"])
    exec(compile(text, f"<maker of {kind.__name__}>", "exec"), names)
    made: Callable[..., T] = names["make"]
    return made
