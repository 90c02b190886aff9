"""How many CPUs this process may use: of the affinity mask and the control groups."""

import os
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
        mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
        groups = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
    except (OSError, ValueError):
        return
    for fields in mounts:
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        for number, controllers, path in (group for group in groups if len(group) == 3):
            if kind == "cgroup2" and number == "0" and not controllers:
                yield from _limits(fields, path, _v2)
            elif kind == "cgroup" and "cpu" in options and "cpu" in controllers.split(","):
                yield from _limits(fields, path, _v1)


def _limits(mount, path, read):
    """From the group's own folder up to where the tree is mounted."""
    root, top = mount[3].rstrip("/"), Path(mount[4])
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
