"""The spool: durable runs on POSIX machines, by files and a few lines of sh that come along with each request."""
