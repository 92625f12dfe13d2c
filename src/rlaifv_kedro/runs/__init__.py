"""Which run made what: manifests, versions, resuming, replaying."""
