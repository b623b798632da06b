"""The lifecycle of sandboxes, containers and images: tables, aggregates, the node, recovery.

Pure and synchronous, standard library only: no clock, no ids, no I/O, no logging, no paths. Where to begin:
`lifecycle` (the tables), then `container`, `sandbox`, `image` (decide and evolve), `node` (all of them
together), `due` (what a state owes), `recovery` (what a start or a reconcile makes of what it observes).
"""
