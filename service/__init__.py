"""The daemon's order of things: lanes, effects, watching, recovery, publishing. Decides nothing about lifecycle."""
