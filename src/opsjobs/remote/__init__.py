"""Sessions to remote machines over any transport, from pooled connections."""
