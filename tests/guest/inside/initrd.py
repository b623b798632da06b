"""Writes an initrd for the kernel whose modules are below /lib/modules: busybox, the modules of virtio's disk and ports, a
shell script that loads them, mounts the disk and goes on there. Run inside the guest's root when its layer is built.

Debian's cloud kernel has ext4 built in and virtio as modules; initramfs-tools would make something fifty times as big.
"""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MODULES = ("virtio_blk", "virtio_pci", "virtio_console")
APPLETS = ("sh", "mount", "umount", "insmod", "switch_root", "sleep", "poweroff")
INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
while read -r module; do insmod /modules/$module; done < /modules/order
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
mount -t ext4 -o rw /dev/vda /root || { echo "guest: the disk cannot be mounted"; poweroff -f; }
mount --move /dev /root/dev
umount /proc /sys
exec switch_root /root /sbin/init
"""
DIRECTORY, PROGRAM, DATA, LINK = 0o040755, 0o100755, 0o100644, 0o120777


def insmods(version: str) -> list[Path]:
    """The modules' files in the order in which they can be loaded."""
    found: dict[Path, None] = {}
    for module in MODULES:
        argv = ["modprobe", "-S", version, "--show-depends", module]
        for line in subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines():
            kind, *path = line.split()
            if kind == "insmod":
                found[Path(path[0])] = None
    return list(found)


def contents(version: str) -> Iterator[tuple[str, int, bytes]]:
    """Name, mode, data; a link's data is its target."""
    modules = insmods(version)
    for name in ("bin", "proc", "sys", "dev", "root", "modules"):
        yield name, DIRECTORY, b""
    yield "init", PROGRAM, INIT.encode()
    yield "bin/busybox", PROGRAM, Path("/bin/busybox").read_bytes()
    for applet in APPLETS:
        yield f"bin/{applet}", LINK, b"busybox"
    for module in modules:
        yield f"modules/{module.name}", DATA, module.read_bytes()
    yield "modules/order", DATA, "".join(f"{module.name}\n" for module in modules).encode()


def entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    """One member of a cpio archive in the new ASCII format (cpio(5)): 13 hexadecimal fields, all padded to 4 bytes."""
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def main() -> None:
    (modules,) = Path("/lib/modules").iterdir()
    members = [*contents(modules.name), ("TRAILER!!!", 0, b"")]
    archive = b"".join(entry(number, *member) for number, member in enumerate(members, 1))
    Path(sys.argv[1]).write_bytes(gzip.compress(archive, 1, mtime=0))


if __name__ == "__main__":
    main()
