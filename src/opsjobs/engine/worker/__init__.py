"""The worker: claims runs, renews its lease and commits results in groups."""
