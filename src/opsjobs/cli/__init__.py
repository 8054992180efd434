"""The command `opsjobs`: what people type, and how answers look in a terminal."""
