from domain.config import PullCredentials
from service.credentials import OpenPulls

ONE, TWO = PullCredentials("h1", "me", "pw"), PullCredentials("h2", "you", "pw")


def test_they_are_there_as_long_as_somebody_waits() -> None:
    pulls = OpenPulls()
    with pulls.lent("a", ONE):
        with pulls.lent("a", ONE), pulls.lent("a", TWO):
            assert (pulls.of("a", "h1"), pulls.of("a", "h2"), pulls.of("b", "h1")) == (ONE, TWO, None)
        assert (pulls.of("a", "h1"), pulls.of("a", "h2")) == (ONE, None)
    assert pulls.of("a", "h1") is None and len(pulls) == 0
