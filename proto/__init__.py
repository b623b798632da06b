"""The CRI v1 definition and the code that tools.genproto makes of it. For adapters/cri only."""
