"""The command `opsjobs`: its command line, and its output in a terminal."""
