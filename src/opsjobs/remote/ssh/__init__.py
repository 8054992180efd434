"""SSH by asyncssh: connect, verify host keys, log in and run commands.

This is the only package that imports asyncssh.
"""

import logging

import asyncssh

# At a lower level it logs a line for every channel, with the command line in it.
asyncssh.set_log_level(logging.WARNING)
