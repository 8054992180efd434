"""SSH by asyncssh: reach a machine, prove both ends, run commands. The one room that knows asyncssh."""
