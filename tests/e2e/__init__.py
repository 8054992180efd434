"""Tests of the whole service as processes; a package, so that their one cluster is closed after the last of them."""
