"""`daybook replay`, `python -m tools.replay`: what the log says happened, when, on whose request, and why.

    log     one line per event                  why ID  the story of one aggregate and what it comes to
    state   the node as it was at a record      check   is the log whole, lawful and consistent

Read-only. A running daemon's log is copied in one short transaction and read from the copy; a copied directory is read
where it lies (`--copy`). The log is hostile input: it is folded by the domain's own tables, never trusted.
Layers: `names`, `walk`, `story`, `judge` make values of records; `conclude` and `words` make sentences of values;
`listing`, `state`, `telling`, `check` make lines and JSON; `text` keeps them safe to print; `cli` is the command.
"""

from tools.replay.cli import main

__all__ = ["main"]
