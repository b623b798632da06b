"""The machine under the daemon: clocks and ids (`clock`), the state directory (`state`), side files (`secrets`).

`fitness` answers `daybook check`: is this machine fit, and what to do about each thing that is not.
"""
