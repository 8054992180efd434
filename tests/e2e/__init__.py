"""Tests of the whole service as processes; a package, so that their one house is closed after the last of them."""
