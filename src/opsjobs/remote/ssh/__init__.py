"""SSH by asyncssh: reach a machine, prove both ends, run commands. The one room that knows asyncssh."""

import logging

import asyncssh

# Below that it writes a line for every channel, with the command line in it.
asyncssh.set_log_level(logging.WARNING)
