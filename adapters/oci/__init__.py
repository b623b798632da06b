"""Containers and pods on runc (or its like) and conmon.

tasks      `service.ports.Tasks`: create, start, stop, tidy, remove, wait      sandboxes  `service.ports.Sandboxes`
execs      commands inside containers; with drains: their output, bounded      reopen  rotation of a log, conmon's fifo
helpers    what hooks leave in the background and lives on                     oom     kills for want of memory
sweep      one read-only look at all of them (observe)                         fake       both, in memory, for tests
spec       what was asked -> OCI runtime spec, pure; with mounts, devices, resources, capabilities, seccomp, users
layout     every path, a pure function of an id      lookup   what the spec needs to know of host and root file system
runc       the runtime's arguments and versions      monitor  conmon: start, ledger, exit file
process    the one function that spawns; identity    cgroups  members, killing, OOM counter, v1 and v2
words      what of a runtime's error may be told        logpath  may a container log there?
namespaces made, set up, pinned; netns: the directory of everybody's network pins
files, kernel, threads   small files, system calls, blocking calls
"""
