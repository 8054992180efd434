"""Machines: sessions to them over any transport, pooled."""
