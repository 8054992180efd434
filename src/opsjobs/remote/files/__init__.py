"""Transfers over any Disk, with several requests under way at a time.

Files are written beside the destination and renamed, and read in order.
"""
