"""Root file systems of Debian 12 and 13 as layers of directories, and commands run inside them.

    base       mmdebstrap's minimal variant with systemd and what a node has anyway; never Daybook's own dependencies
    packages   README's apt-get lines
    daybook    README's other lines, typed in a copy of this checkout
    suite      what the test suite needs beyond that (its Debian packages, its virtual environment)

Each layer is what its commands wrote above the layers below it (overlayfs), so that an edit of Daybook rebuilds one
small layer. The host's name servers, CA bundle and pip configuration are lent by mounts in the command's own mount
namespace: nothing of them is ever in a layer.
"""

import inspect
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.guest import readme
from tests.guest.layers import layer, say

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD_LIMIT_S = 600
BASE_PACKAGES = (
    "systemd systemd-sysv dbus udev kmod iproute2 procps mount e2fsprogs apparmor busybox-static python3 ca-certificates"
).split()
SUITE_PACKAGES = "python3-venv procps iproute2 busybox-static e2fsprogs docker-registry".split()
"""What tests/conformance starts besides README's packages."""

RELEASES = {12: "bookworm", 13: "trixie"}
SOURCE_FILES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SRC = "/usr/src/daybook"
NOT_INSTALLED = ("tests/", ".ci/", "CHANGELOG.md", "README.md")
"""An edit there needs no new layer."""

SUITE_LOCKS = ("requirements-test.lock", "requirements.lock")
"""The first that there is."""


class BuildFailed(RuntimeError):
    """A step of a build ended with an error; the text holds the end of what it said."""


@dataclass(frozen=True, slots=True)
class Root:
    """Layers, topmost first."""

    layers: tuple[Path, ...]

    def lowers(self) -> str:
        return ":".join(map(str, self.layers))


# --- layers ----------------------------------------------------------------------------------------------------------


def base(release: int) -> Root:
    """Raises BuildFailed."""
    sources = _sources(RELEASES[release])

    def make(place: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="guest-") as scratch:
            form = "sources" if re.search(r"^Types:", sources, re.M) else "list"
            file = Path(scratch) / f"debian.{form}"
            file.write_text(sources)
            checked(_mmdebstrap(RELEASES[release], place, file))
        _settle(place)

    scripts = [inspect.getsource(each) for each in (_mmdebstrap, _settle)]
    return Root((layer(f"debian{release}-base", (sources, *BASE_PACKAGES, *scripts), make),))


def _mmdebstrap(suite: str, place: Path, sources: Path) -> list[str]:
    options = [f"--aptopt={line}" for line in (*_host_apt(), 'Acquire::Languages "none"')]
    options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale", "info")]
    options += ["--dpkgopt=path-include=/usr/share/locale/locale.alias", "--dpkgopt=force-unsafe-io"]
    include = f"--include={','.join(BASE_PACKAGES)}"
    # The lists stay for the apt-get lines of the next layer.
    skip = "--skip=check/empty,cleanup/apt/lists"
    return ["mmdebstrap", "--mode=root", "--variant=minbase", include, skip, *options, suite, str(place), str(sources)]


def _settle(place: Path) -> None:
    """The machine's identity and what a guest's boot would wait for or warn of."""
    (place / "etc/hostname").write_text("guest\n")
    (place / "etc/hosts").write_text("127.0.0.1 localhost guest\n")
    (place / "etc/resolv.conf").unlink(missing_ok=True)
    (place / "etc/resolv.conf").write_text("")
    (place / "etc/fstab").write_text("")
    (place / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (place / "etc/apt/apt.conf.d/99mmdebstrap").write_text('Acquire::Languages "none";\n')


def packages(release: int) -> Root:
    """README's apt-get lines, typed as root in the base. Raises BuildFailed, Drifted."""
    return above(base(release), f"debian{release}-packages", [*readme.install().packages, "apt-get clean"])


def daybook(release: int) -> Root:
    """README's other lines, typed in a copy of this checkout. Raises BuildFailed, Drifted."""
    files = {f"{SRC}/{name}": data for name, data in checkout().items() if not name.startswith(NOT_INSTALLED)}
    lines = [f"cd {SRC}", *readme.install().steps]
    return above(packages(release), f"debian{release}-daybook", lines, files)


def suite(release: int) -> Root:
    """Daybook, and the packages and the virtual environment (/opt/suite) of its test suite. Raises BuildFailed."""
    known = checkout()
    lock = next(name for name in SUITE_LOCKS if name in known)
    lines = (
        f"apt-get install --no-install-recommends {' '.join(SUITE_PACKAGES)}",
        "apt-get clean",
        "python3 -m venv /opt/suite",
        f"/opt/suite/bin/pip install --require-hashes --no-deps -r /usr/src/{lock}",
    )
    return above(packages(release), f"debian{release}-suite", lines, {f"/usr/src/{lock}": known[lock]})


def above(below: Root, name: str, lines: Sequence[str], files: Mapping[str, bytes] = MappingProxyType({})) -> Root:
    """A layer of files and of what these lines then do as root. Raises BuildFailed."""

    def make(place: Path) -> None:
        for path, data in files.items():
            target = place / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        _run_in(below, place, ["sh", "-exc", "\n".join(lines)])

    contents = [part for path, data in sorted(files.items()) for part in (path, data)]
    inputs = (below.layers[0].name, *lines, *contents, (HERE / "enter.sh").read_bytes())
    return Root((layer(name, inputs, make), *below.layers))


# --- inputs ----------------------------------------------------------------------------------------------------------


def checkout() -> dict[str, bytes]:
    """What git tracks or would track."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return {name: (ROOT / name).read_bytes() for name in names if name and (ROOT / name).is_file()}


def tests() -> dict[str, bytes]:
    """What runs beside an installed Daybook: the tests alone, so that all else is what was installed."""
    return {name: data for name, data in checkout().items() if name.startswith("tests/")}


def _sources(suite: str) -> str:
    """This machine's sources of Debian, for another release. Raises BuildFailed."""
    for name in SOURCE_FILES:
        text = Path(name).read_text() if Path(name).exists() else ""
        if "deb" in text:
            own = _host_suite()
            return re.sub(rf"\b{own}\b(?!\.)", suite, text)
    raise BuildFailed(f"no sources of Debian packages: neither {' nor '.join(SOURCE_FILES)} names any")


def _host_suite() -> str:
    found = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.M)
    if not found:
        raise BuildFailed("/etc/os-release has no VERSION_CODENAME: the guests are built on Debian")
    return found[1]


def _host_apt() -> list[str]:
    """How this machine reaches its package sources, where that is configured: proxies, certificates, dates."""
    said = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    wanted = re.compile(r"^Acquire::(Check-|https?::|Retries|ForceIPv)")
    return [line.rstrip(";") for line in said.splitlines() if wanted.match(line) and not line.endswith(' "";')]


# --- commands inside -------------------------------------------------------------------------------------------------


@contextmanager
def lent() -> Iterator[Path]:
    """A directory with what a build needs of this machine's configuration to reach its package sources."""
    with tempfile.TemporaryDirectory(prefix="guest-lent-") as made:
        place = Path(made)
        resolv = Path("/etc/resolv.conf")
        (place / "resolv.conf").write_text(resolv.read_text() if resolv.exists() else "")
        if CA_BUNDLE.exists():
            shutil.copyfile(CA_BUNDLE, place / "ca-certificates.crt")
        (place / "apt.conf").write_text("".join(f"{line};\n" for line in (*_host_apt(), 'APT::Get::Assume-Yes "true"')))
        homes = (
            ("/etc/pip.conf", "xdg/pip"),
            ("~/.config/pip/pip.conf", "home/.config/pip"),
            ("~/.pip/pip.conf", "home/.pip"),
        )
        for source, target in homes:
            if (file := Path(source).expanduser()).exists():
                (place / target).mkdir(parents=True)
                shutil.copyfile(file, place / target / "pip.conf")
        (place / "home").mkdir(exist_ok=True)
        yield place


def build_environment() -> dict[str, str]:
    """Proxies and pip's settings as this process has them; pip's files from what is lent."""
    passed = re.compile(r"(?i)^((https?|no|ftp|all)_proxy|PIP_\w+|(SSL|REQUESTS|CURL)_\w*(CERT|CA)\w*)$")
    kept = {name: value for name, value in os.environ.items() if passed.match(name)}
    lent = {"HOME": "/run/lent/home", "XDG_CONFIG_DIRS": "/run/lent/xdg", "APT_CONFIG": "/run/lent/apt.conf"}
    quiet = {
        "DEBIAN_FRONTEND": "noninteractive",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_NO_CACHE_DIR": "1",
        "SYSTEMD_OFFLINE": "1",
    }
    return {**kept, **lent, **quiet, "PATH": PATH, "LC_ALL": "C.UTF-8"}


def _run_in(root: Root, upper: Path, argv: Sequence[str]) -> None:
    """Typed as root on a machine that reaches its package sources as this one does. Raises BuildFailed."""
    with lent() as borrowed:
        checked(entering(root, upper, argv, LENT=str(borrowed)), build_environment(), f"in {upper.name}: {argv[-1]}")
    for kind in ("work", "root"):
        shutil.rmtree(upper.with_name(f"{upper.name}.{kind}"))


def entering(root: Root, upper: Path, argv: Sequence[str], **options: str) -> list[str]:
    """The command line that runs `argv` in a root (see enter.sh): it dies with the thread that starts it."""
    places = {
        "UPPER": upper,
        "WORK": upper.with_name(f"{upper.name}.work"),
        "ROOT": upper.with_name(f"{upper.name}.root"),
    }
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    settings = [f"{name}={value}" for name, value in {"LOWERS": root.lowers(), **places, **options}.items()]
    network = ["--net"] if options.get("NETWORK") == "own" else []
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *network]
    return ["setpriv", "--pdeathsig", "KILL", "--", *alone, "env", *settings, str(HERE / "enter.sh"), *argv]


def checked(argv: Sequence[str], environment: Mapping[str, str] | None = None, about: str = "") -> None:
    """Raises BuildFailed, with the end of what the command said."""
    try:
        subprocess.run(
            argv,
            check=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BUILD_LIMIT_S,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stdout or b"").decode(errors="replace")[-4000:]
        raise BuildFailed(f"{about or argv[0]}: {error.__class__.__name__}: {said}") from None
    except FileNotFoundError as error:
        raise BuildFailed(f"{error.filename} is not there: tools/test installs it") from None


def size_mib(root: Root) -> int:
    said = subprocess.run(["du", "-sm", *map(str, root.layers)], capture_output=True, text=True, check=True).stdout
    total = sum(int(line.split()[0]) for line in said.splitlines())
    say(f"{total} MiB in {len(root.layers)} layers")
    return total
