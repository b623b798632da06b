"""Every module of `domain` has its test file here, under its own name."""

from pathlib import Path

HERE = Path(__file__).parent
DOMAIN = HERE.parents[2] / "domain"


def test_every_module_has_a_twin() -> None:
    modules = {p.stem for p in DOMAIN.glob("*.py")} - {"__init__"}
    twins = {p.stem.removeprefix("test_") for p in HERE.glob("test_*.py")} - {"twins"}
    assert modules - twins == set(), "modules of domain without a test file"
    assert twins - modules == set(), "test files whose module is gone"
