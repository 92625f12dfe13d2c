"""Where a model computes: in this process, or on a server."""
