"""The command `daybook`: serve, check, load, replay, adopt, purge, config. Arguments in, exit status out."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # grpc's fork handlers kill children of a threaded server

from adapters.children import UMASK, become_parent
from adapters.images import archives
from domain.errors import DaybookError
from service import config as configuration
from service import maintenance, wiring
from service.config import Config
from service.daemon import Daemon, Ports
from service.ports import EventLog

log = logging.getLogger("daybook")

GOODBYE_S = 0.5
"""At the end: how long calls that still wait are given to read their error."""

EXIT_REFUSED, EXIT_BROKEN = 1, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. An error of ours is one line on stderr, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.umask(UMASK)
    if words[:1] == ["replay"]:
        return run_replay(words[1:])
    given = parser().parse_args(words)
    try:
        return int(given.run(given))
    except DaybookError as error:
        print(f"daybook: {error.text}", file=sys.stderr)
        return EXIT_REFUSED
    except BrokenPipeError:
        return EXIT_REFUSED


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="daybook", description="A container runtime that keeps a log of everything.")
    top.add_argument("--version", action="version", version=f"daybook {wiring.VERSION}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _command(commands, "serve", serve, "run the daemon")
    _command(commands, "check", check, "is this machine fit, and what to do about each thing that is not", as_json=True)
    load = _command(commands, "load", load_image, "load images from an OCI layout or archive, or a docker archive")
    load.add_argument("path", help="directory (OCI layout) or archive, with :NAME for one of several that it holds")
    load.add_argument("reference", nargs="?", default="", help="the name it shall have; without: those that it has")
    adopt_ = _command(commands, "adopt", adopt, "declare the log to be the truth for the state directory")
    adopt_.add_argument("--yes", action="store_true", help="do it; without, only say what would be done")
    purge_ = _command(commands, "purge", purge, "end all containers and remove all state, or give up one aggregate")
    purge_.add_argument("--yes", action="store_true", help="do it; without, only say what would be done")
    purge_.add_argument("--quarantined", metavar="KEY", help="give up only this aggregate (container/ID, sandbox/ID)")
    settings = _command(commands, "config", print_config, "print a configuration file")
    settings.add_argument("what", choices=["default", "current"], help="all defaults, commented; or what is in force")
    commands.add_parser("replay", help="read the log: log, state, why, check")  # `main` hands it on, options and all
    return top


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    meaning: str,
    as_json: bool = False,
) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=meaning, description=meaning)
    made.add_argument("--config", metavar="FILE", help=f"default: {configuration.DEFAULT_PATH}, where it exists")
    if as_json:
        made.add_argument("--json", action="store_true", help="machine-readable")
    made.set_defaults(run=run)
    return made


def _config(given: argparse.Namespace) -> Config:
    path = Path(given.config) if given.config else configuration.DEFAULT_PATH
    return wiring.read_config(path, required=bool(given.config))


# --- serve -----------------------------------------------------------------------------------------------------------


def serve(given: argparse.Namespace) -> int:
    """Until SIGTERM or SIGINT: status 0. A log that broke: status 3, so that the next start replays it."""
    config = _config(given)
    wiring.set_up_logging(config.daemon.log_level)
    become_parent()
    wiring.warn_of_own_mounts()
    with wiring.holding(config), wiring.daemons_log(config) as event_log:
        return asyncio.run(serve_on(config, event_log))


async def serve_on(config: Config, event_log: EventLog, wrap: wiring.Wrap = wiring.unwrapped) -> int:
    """`wrap` lets the crash tests put a fault between the daemon and its ports."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    world = wiring.open_world(config, event_log.log_id)
    daemon = Daemon(wrap(wiring.ports(config, event_log, world)), wiring.timing(config), wiring.VERSION, os.getpid())
    await wiring.get_ready(config, world)
    await daemon.prepare()
    server = wiring.front_end(config, daemon, world)
    await server.start()
    log.info("daybook %s serves on %s", wiring.VERSION, ", ".join(s.path for s in wiring.sockets(config)))
    wiring.tell_service_manager()
    wiring.warn_of_settings(config)
    daemon.resume()
    if why := await _until_told_or_broken(told, daemon):
        log.critical("the log takes no more, ending: %s", why)
        await server.stop(0)
        return EXIT_BROKEN
    await daemon.stop()
    await server.stop(GOODBYE_S)
    await wiring.leave(world)
    return 0


async def _until_told_or_broken(told: asyncio.Event, daemon: Daemon) -> str:
    """Empty where a signal asked to stop, else why the log broke."""
    asked, broken = asyncio.ensure_future(told.wait()), asyncio.ensure_future(daemon.until_broken())
    await asyncio.wait({asked, broken}, return_when=asyncio.FIRST_COMPLETED)
    for waiting in (asked, broken):
        waiting.cancel()
    return broken.result() if broken.done() and not broken.cancelled() else ""


# --- check -----------------------------------------------------------------------------------------------------------


def check(given: argparse.Namespace) -> int:
    """Status 0 where nothing FAILs."""
    facts = wiring.fitness(_config(given))
    if given.json:
        print(json.dumps([{"level": f.level, "what": f.what, "found": f.found, "remedy": f.remedy} for f in facts]))
    else:
        for fact in facts:
            print(
                f"{fact.level:4}  {fact.what:16}  {fact.found}" + (f"\n{'':24}-> {fact.remedy}" if fact.remedy else "")
            )
    return EXIT_REFUSED if any(f.level == "FAIL" for f in facts) else 0


# --- load ------------------------------------------------------------------------------------------------------------


def load_image(given: argparse.Namespace) -> int:
    """Asks the running daemon through the admin socket: it alone writes the store and the log."""
    config = _config(given)
    with archives.plain(given.path) as path:
        for found in archives.loads(path, given.reference, given.path):
            image_id = wiring.load_image(config, found.source, found.name)
            print(image_id if given.reference else f"{image_id}  {found.name}")
    return 0


# --- adopt and purge -------------------------------------------------------------------------------------------------


def adopt(given: argparse.Namespace) -> int:
    with _alone(_config(given), make=given.yes) as ports:
        return _say(asyncio.run(maintenance.adopt(ports, really=given.yes)), given.yes)


def purge(given: argparse.Namespace) -> int:
    config = _config(given)
    with _alone(config, make=given.yes) as ports:
        if given.quarantined:
            return _say(asyncio.run(maintenance.release(ports, given.quarantined, really=given.yes)), given.yes)
        lines = asyncio.run(maintenance.purge(ports, really=given.yes))
    if given.yes:
        with wiring.holding(config):
            wiring.remove_state(config)
    return _say(lines, given.yes)


@contextlib.contextmanager
def _alone(config: Config, make: bool) -> Iterator[Ports]:
    """The ports, under the daemon's lock. `make`: a missing log is made, although the state directory knows one."""
    with wiring.holding(config), wiring.persons_log(config, make) as event_log:
        world = wiring.open_world(config, event_log.log_id)
        yield wiring.ports(config, event_log, world)
        world.tasks.leave()


def _say(lines: Sequence[str], done: bool) -> int:
    for line in lines:
        print(line)
    print("Done." if done else "Nothing was changed. Add --yes to do this.")
    return 0


# --- the rest --------------------------------------------------------------------------------------------------------


def print_config(given: argparse.Namespace) -> int:
    print(configuration.commented(configuration.Config() if given.what == "default" else _config(given)), end="")
    return 0


def run_replay(words: Sequence[str]) -> int:
    from tools.replay.cli import main as replay

    return replay(words)


if __name__ == "__main__":
    sys.exit(main())
