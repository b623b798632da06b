"""Images: skopeo with containers-storage, and the overlay root file systems over its layers.

What lives here: `images` (the port: pull, load, remove, observe, clean), `skopeo` (its command lines), `process` (the
only place that spawns), `failures` (what it says), `store` (reads the index files, never writes them), `config` (an
image's configuration, untrusted), `reference` (names), `archives` and `tars` (what a person
loads from a file, hostile), `sync`, `strays`, `book`, `rootfs` (overlay), `threads`, `fake`.

Why skopeo: authentication, mirrors, signature policy, multi-arch choice and verified unpacking in a store that podman
and CRI-O know. Price: a process per pull, no digest per name in the store, and kills that leave things behind: every
run therefore has a directory with a ledger, made and synced before, removed after. Only Daybook writes the store.
Nothing here decides about a lifecycle; in use or not is not known here.
"""
