"""What every module of values keeps: frozen, slotted, no defaults that are shared and can change."""

import dataclasses
from types import ModuleType


def classes(module: ModuleType) -> list[type]:
    own = [k for k in vars(module).values() if isinstance(k, type) and k.__module__ == module.__name__]
    return [k for k in own if dataclasses.is_dataclass(k)]


def check_values(module: ModuleType) -> None:
    found = classes(module)
    assert found
    for kind in found:
        params = kind.__dataclass_params__  # type: ignore[attr-defined]
        assert params.frozen, kind
        assert "__dict__" not in dir(kind), kind
