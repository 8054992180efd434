"""Transfers over any Disk: written beside the destination and renamed, read in order with many requests under way."""
