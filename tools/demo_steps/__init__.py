"""What `tools/demo` shows: a daemon that is killed while containers run, and what it knows after its restart.

Each line says what was found, with a check mark; the first thing that is not so ends the demo with status 1 and names
the step. Whatever happens, everything that was started is ended and everything that was made is removed.

    saying    lines for a person            outside   what exists on this machine, by the kernel
    image     an OCI layout of busybox      ground    the pod network: subnet, bridge, CNI configuration
    stage     directories, daemon, client   steps     what is shown, in the order of STEPS
    ending    clean-up, in whatever state
"""
