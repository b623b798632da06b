"""What makes names unique, and what references say of their repository."""

from domain.deciding import absolute_log_path
from domain.names import repo_digest, repository, sandbox_name
from tests.unit.domain import builders as b


def test_names_of_things() -> None:
    assert sandbox_name(b.box_config()) == ("default", "p", "u", 0)
    assert absolute_log_path("/a/", "/b.log") == "/a/b.log"
    assert absolute_log_path("", "b") == absolute_log_path("/a", "") == ""
    assert repository("localhost:5000/x/y:1@sha256:0") == "localhost:5000/x/y"
    assert repository("localhost:5000/x") == "localhost:5000/x"
    assert repo_digest(b.REF, "") == b.REF
