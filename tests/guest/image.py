"""A disk of a guest: Debian's own kernel, an initrd, the agent, and a root with Daybook as one ext4 image.

The layer `machine` is what makes a root bootable here. It stands on Debian 12's base and its kernel; put on top of
Debian 13's layers it boots these with the same kernel.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.guest import layers, roots
from tests.guest.roots import HERE, Root

KERNEL = "linux-image-cloud-amd64"
"""Debian 12's, 6.1. Debian 12's qemu crashes at random when it emulates the CPU for kernels of 6.12."""

SIZE_GIB = 8
# What a container runtime never loads is two thirds of the modules.
LEFT_OUT = """drivers/ata drivers/gpu drivers/hv drivers/hwmon drivers/iio drivers/infiniband drivers/input drivers/media
drivers/mmc drivers/net/ethernet drivers/net/wireless drivers/net/wwan drivers/nvme drivers/staging drivers/target
drivers/usb drivers/video drivers/xen fs/afs fs/ceph fs/cifs fs/coda fs/dlm fs/f2fs fs/gfs2 fs/hfs fs/hfsplus fs/jffs2
fs/jfs fs/nfs fs/nfsd fs/nilfs2 fs/ntfs fs/ntfs3 fs/ocfs2 fs/orangefs fs/reiserfs fs/smb fs/ubifs fs/udf fs/ufs
net/batman-adv net/bluetooth net/ceph net/dccp net/ieee802154 net/mac80211 net/openvswitch net/rds net/rxrpc net/smc
net/sunrpc net/tipc net/wireless sound""".split()
MASKED = """getty@tty1.service serial-getty@ttyS0.service console-getty.service systemd-timesyncd.service apt-daily.timer
apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
systemd-networkd-wait-online.service systemd-rfkill.service systemd-rfkill.socket""".split()
AGENT_UNIT = """[Unit]
Description=Runs the host's commands
DefaultDependencies=no
After=systemd-remount-fs.service
Conflicts=shutdown.target

[Service]
# Commands of the host start containers and daemons: what they leave outlives the agent.
KillMode=process
Delegate=yes
TasksMax=infinity
ExecStart=/usr/bin/python3 -SE /usr/local/sbin/guest-agent
Restart=on-failure

[Install]
WantedBy=basic.target
"""


@dataclass(frozen=True, slots=True)
class Image:
    disk: Path
    kernel: Path
    initrd: Path


def machine() -> Root:
    """Raises BuildFailed."""
    files = {
        "/usr/local/sbin/guest-agent": (HERE / "inside/agent.py").read_bytes(),
        "/usr/local/sbin/guest-initrd": (HERE / "inside/initrd.py").read_bytes(),
        "/etc/systemd/system/guest-agent.service": AGENT_UNIT.encode(),
        "/etc/systemd/journald.conf.d/guest.conf": b"[Journal]\nStorage=volatile\n",
    }
    leave_out = " ".join(f"--exclude='*/kernel/{name}'" for name in (*LEFT_OUT, "*.ko.debug"))
    lines = (
        "cd /tmp",
        f"apt-get download $(apt-cache depends {KERNEL} | sed -n 's/^ *Depends: //p' | head -1)",
        f"dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x --keep-directory-symlink -C / {leave_out} ./boot ./lib",
        "rm linux-image-*.deb /var/cache/apt/*.bin",
        "depmod $(ls /lib/modules)",
        "mv /boot/vmlinuz-* /boot/vmlinuz",
        "python3 /usr/local/sbin/guest-initrd /boot/initrd.img",
        "systemctl enable guest-agent.service",
        f"systemctl mask {' '.join(MASKED)}",
    )
    base = roots.base(12)
    return Root(roots.above(base, "guest-machine", lines, files).layers[:1])


def image(release: int, with_suite: bool = False) -> Image:
    """Raises BuildFailed, Drifted."""
    roots.base(12)
    with ThreadPoolExecutor(2) as both:
        boots, lives = both.submit(machine), both.submit(roots.daybook, release)
        stack = (*boots.result().layers, *lives.result().layers)
    if with_suite:
        stack = (*stack[:1], roots.suite(release).layers[0], *stack[1:])
    root = Root(stack)

    def make(place: Path) -> None:
        roots.checked(["unshare", "--mount", "sh", "-exc", _mke2fs(root, place)], about="mke2fs")

    name = f"debian{release}-image{'-suite' if with_suite else ''}"
    made = layers.layer(name, [p.name for p in root.layers] + [_mke2fs(root, Path("/"))], make)
    boot = root.layers[0] / "boot"
    return Image(made / "disk.img", boot / "vmlinuz", boot / "initrd.img")


def _mke2fs(root: Root, place: Path) -> str:
    """No loop device and no mount of the disk: mke2fs copies a directory."""
    mount = f"mount -t overlay overlay -o lowerdir={root.lowers()} {place}/root"
    fill = (
        f"mke2fs -q -t ext4 -F -m 0 -E lazy_itable_init=1,root_owner=0:0 -d {place}/root {place}/disk.img {SIZE_GIB}G"
    )
    return f"mount --make-rprivate /; mkdir {place}/root; {mount}; {fill}; umount {place}/root; rmdir {place}/root"


def overlay(image: Image, path: Path) -> Path:
    """A disk that holds only what differs from the image: thrown away after a test."""
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image.disk), str(path)]
    roots.checked(argv, about="qemu-img")
    return path
