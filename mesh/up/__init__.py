"""The launcher: everything that one machine needs, started, watched and stopped by one process."""
