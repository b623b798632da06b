"""The kubelet's door: CRI v1 over gRPC on two unix sockets. Nothing outside this folder knows protobuf or gRPC.

`server`     binds the sockets, one server each;  `calls` the one wrapper around every handler: cause, errors, log line
`runtime`    RuntimeService, `image` ImageService: a short method for each RPC;  one without it answers UNIMPLEMENTED
`translate`  requests -> commands and secrets;  `sandbox_config`, `container_config`, `security` configurations in them
`checks`     what no request may contain;  `enums` the CRI's enums and ours
`views`      aggregates -> messages;  `info` the verbose part, as JSON
`lists`      the List calls' cache of serialised entries;  `lookup` ids, unique prefixes, image names
`status`     the one table from errors to gRPC codes;  `port` what we ask of the daemon;  `client` for our commands;
`options`    what the composition root decides;  `held_back` what must not enter the log, and hashes of it

Rule 1: a secret value (environment, arguments, large annotations, credentials) reaches `domain` only as a digest, and
no log line and no error text at all. Rule 2: nothing is decided here; a refusal here is about the request alone.
"""

import os

# Before anything imports grpc: its fork handlers would run in every child that forks before exec (grpc#41768; measured:
# 46 of 400 children died). We never fork without exec, so nothing needs them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
