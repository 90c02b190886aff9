"""How many CPUs this process may use: of the affinity mask and the control groups."""

import os
import re
from pathlib import Path


def cpus(proc="/proc/self"):
    """At least 1."""
    try:
        mask = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        mask = os.cpu_count() or 1
    return max(1, min([mask, *quotas(Path(proc))]))


def quotas(proc):
    """Of the process's own groups and their ancestors, in CPUs, rounded up; those that have one."""
    try:
        mounts, groups = _lines(proc / "mountinfo"), _lines(proc / "cgroup")
    except OSError:
        return
    for mount in mounts:
        place, _, what = (part.split(" ") for part in mount.partition(" - "))
        if len(place) < 6 or len(what) < 3:
            continue  # no mount that we know how to read
        kind, options = what[0], what[2].split(",")
        for number, controllers, path in (g.split(":", 2) for g in groups if g.count(":") > 1):
            if kind == "cgroup2" and number == "0" and not controllers:
                yield from _limits(place, path, _v2)
            elif kind == "cgroup" and "cpu" in options and "cpu" in controllers.split(","):
                yield from _limits(place, path, _v1)


def _lines(file):
    return os.fsdecode(file.read_bytes()).split("\n")


def _unescaped(path):
    """Spaces and the like are octal numbers in the table of mounts."""
    return re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), path)


def _limits(mount, path, read):
    """From the group's own folder up to where the tree is mounted."""
    root, top = _unescaped(mount[3]).rstrip("/"), Path(_unescaped(mount[4]))
    inside = path[len(root):] if path == root or path.startswith(root + "/") else ""
    folder = top / inside.lstrip("/")
    if ".." in folder.parts:  # the group is outside of what is mounted
        folder = top
    while True:
        try:
            quota, period = read(folder)
            if quota > 0 and period > 0:
                yield -(-quota // period)
        except (OSError, ValueError):
            pass  # no limit here
        if folder in (top, folder.parent):
            return
        folder = folder.parent


def _v2(folder):
    quota, period = (folder / "cpu.max").read_text().split()
    return int(quota), int(period)  # "max": ValueError


def _v1(folder):
    return (int((folder / "cpu.cfs_quota_us").read_text()),
            int((folder / "cpu.cfs_period_us").read_text()))
