"""The event log: an append-only LMDB directory, one writer thread, every record checksummed and chained by hash.

`codec`       domain event <-> payload by wire name; any frozen dataclass <-> bytes
`record`      the bytes of one record, its checksum and its place in the chain (pure)
`checkpoint`  the folded aggregates at a sequence in a canonical encoding (pure)
`making`      frozen dataclasses at half their price
`reading`     records, gaps and breaks in order, from whatever store holds them; `LogReader`
`store`       the LMDB directory: tables, format, head, rows;  `engine` looks at the file before LMDB maps it
`writer`      the one thread that writes;  `ballast` the room it keeps for stops and removals on a full disk
`lmdb_log`    `LmdbLog`, what the daemon uses;  `memory` its twin for property tests
`readonly`    a log for tools: beside a running daemon, or a copied directory
`recorder`    the eventsourcing library's recorders and factory on `LmdbLog`;  `mapper` its stored events as ours
`errors`      what can go wrong, as subclasses of `domain.errors`
"""
