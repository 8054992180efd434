"""The spool: durable runs on POSIX machines, by files and a few lines of sh per request."""
