"""Who a container's init is: uid, gid and groups, looked up in the image's own /etc/passwd and /etc/group.

Both files are hostile: opened inside the root file system, read up to 1 MiB, lines that do not parse are skipped, and
every number is checked against 0..2^31-1 in one place (a larger uid would wrap to root: CVE-2024-40635). A decimal is
a number and never a name (CVE-2016-3697): a line `1000:x:0:0` must not make root of user 1000, whom ImageStatus and
the kubelet's runAsNonRoot took for 1000.
"""

import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from adapters.oci import kernel
from domain.config import SecurityContext
from domain.errors import InvalidRequest
from domain.events import User

FILE_MAX = 1024 * 1024
ID_MAX = 2**31 - 1
GROUPS_MAX = 65536
"""NGROUPS_MAX of the kernel."""

Files = Callable[[str], str]
"""Path inside the root file system -> its text, empty where there is none."""


@dataclass(frozen=True, slots=True)
class Account:
    """One line of a passwd file."""

    name: str
    uid: int
    gid: int


def files_of(root: int) -> Files:
    """Reads inside the directory that `root` is a descriptor of. Raises InvalidRequest for a file that is too big."""

    def read(path: str) -> str:
        try:
            found = kernel.open_in_root(root, path, os.O_PATH)
        except OSError:
            return ""
        try:
            # Judged before it is opened: to open a device node of the image could do something.
            if not stat.S_ISREG(os.fstat(found).st_mode):
                return ""
            with open(f"/proc/self/fd/{found}", "rb") as file:
                data = file.read(FILE_MAX + 1)
        finally:
            os.close(found)
        if len(data) > FILE_MAX:
            raise InvalidRequest(f"{path} of the image is larger than {FILE_MAX} bytes")
        return data.decode(errors="replace")

    return read


def resolve(security: SecurityContext, image_user: str, files: Files) -> User:
    """The effective user. Raises InvalidRequest where it does not exist or cannot be."""
    if security.run_as_group is not None and security.run_as_user is None and not security.run_as_username:
        raise InvalidRequest("run_as_group is given without run_as_user or run_as_username")
    accounts, known_groups = tuple(accounts_in(files("/etc/passwd"))), files("/etc/group")
    group = ""
    if security.run_as_user is not None:
        account = account_of(checked(security.run_as_user, "run_as_user"), accounts)
    elif security.run_as_username:
        account = find_account(security.run_as_username, accounts)
    else:
        user, _, group = image_user.partition(":")
        account = find_account(user or "0", accounts)
    if security.run_as_group is not None:
        gid = checked(security.run_as_group, "run_as_group")
    else:
        gid = find_group(group, known_groups) if group else account.gid
    groups = {checked(number, "supplemental group") for number in security.supplemental_groups}
    if not security.supplemental_groups_strict:
        groups |= groups_listing(account.name, known_groups)
    groups.add(gid)
    if len(groups) > GROUPS_MAX:
        raise InvalidRequest(f"{len(groups)} groups are more than the kernel takes")
    refuse_renumbered(groups, known_groups)
    return User(account.uid, gid, tuple(sorted(groups)))


def checked(number: int, what: str) -> int:
    if not 0 <= number <= ID_MAX:
        raise InvalidRequest(f"{what} {number} is not in 0..{ID_MAX}")
    return number


def is_decimal(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def number_in(text: str) -> int | None:
    """A uid or gid as a decimal; None where it is not one, or out of range."""
    number = int(text) if is_decimal(text) and len(text) <= 10 else ID_MAX + 1
    return number if number <= ID_MAX else None


def number_of(text: str, what: str) -> int:
    """Of a decimal. Raises InvalidRequest where it is out of range."""
    number = number_in(text)
    if number is None:
        raise InvalidRequest(f"{what} {text[:40]} is not in 0..{ID_MAX}")
    return number


def account_of(uid: int, accounts: tuple[Account, ...]) -> Account:
    """The first line with this number; a number needs none: its group is 0 then."""
    return next((account for account in accounts if account.uid == uid), Account("", uid, 0))


def find_account(user: str, accounts: tuple[Account, ...]) -> Account:
    """Whom a text means: a decimal a number, all else a name."""
    if is_decimal(user):
        return account_of(number_of(user, "user"), accounts)
    for account in accounts:
        if account.name == user:
            return account
    raise InvalidRequest(f"user {user[:80]!r} is not in the image's /etc/passwd")


def find_group(group: str, text: str) -> int:
    if is_decimal(group):
        return number_of(group, "group")
    for name, gid, _ in groups_in(text):
        if name == group:
            return gid
    raise InvalidRequest(f"group {group[:80]!r} is not in the image's /etc/group")


def refuse_renumbered(groups: Collection[int], text: str) -> None:
    """Raises InvalidRequest where the runtime would give another group than the one meant.

    runc reads the container's /etc/group once more and takes the additional groups of the spec for names first (its
    libcontainer/user, up to 1.3): a line `1000:x:0:` makes group 0 of 1000. It reads more leniently than `groups_in`:
    a gid that is missing or no number is 0.
    """
    meant = {str(number): number for number in groups}
    for line in text.split("\n"):
        name, _, rest = line.strip().partition(":")
        if name in meant:
            gid = rest.split(":")[1] if ":" in rest else ""
            if number_in(gid) != meant[name]:
                raise InvalidRequest(
                    f"the image's /etc/group has a group named {name} with gid {gid[:40] or 'none'}: the runtime would "
                    f"give that for group {name}"
                )


def groups_listing(name: str, text: str) -> set[int]:
    return {gid for _, gid, members in groups_in(text) if name and name in members}


def accounts_in(text: str) -> Iterator[Account]:
    for line in text.split("\n"):
        fields = line.strip().split(":")
        if len(fields) < 4 or not fields[0] or line.startswith("#"):
            continue
        uid, gid = number_in(fields[2]), number_in(fields[3])
        if uid is not None and gid is not None:
            yield Account(fields[0], uid, gid)


def groups_in(text: str) -> Iterator[tuple[str, int, frozenset[str]]]:
    for line in text.split("\n"):
        fields = line.strip().split(":")
        if len(fields) < 3 or not fields[0] or line.startswith("#"):
            continue
        gid = number_in(fields[2])
        if gid is not None:
            yield fields[0], gid, frozenset(fields[3].split(",") if len(fields) > 3 else ())
