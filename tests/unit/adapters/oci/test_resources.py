import pytest

from adapters.oci import resources
from domain.config import Resources
from domain.errors import InvalidRequest


@pytest.mark.parametrize(
    ("asked", "written"), [("0", "0"), (" 0 ", "0"), ("0-1, 3,", "0-1,3"), (" ", None), ("", None), (",", None)]
)
def test_a_cpuset_with_spaces_is_the_same_without(asked: str, written: str | None) -> None:
    limits = Resources(cpuset_cpus=asked, cpuset_mems=asked)
    resources.check(limits)
    built = resources.build(limits, True).get("cpu", {})
    assert (built.get("cpus"), built.get("mems")) == (written, written)


@pytest.mark.parametrize("asked", ["0-", "-1", "a", "0;1", "0 1", "1-2-3", "0/1", "9999999", "0\n1"])
def test_a_cpuset_that_no_kernel_takes_is_refused(asked: str) -> None:
    for limits in (Resources(cpuset_cpus=asked), Resources(cpuset_mems=asked)):
        with pytest.raises(InvalidRequest, match="cpuset"):
            resources.check(limits)
