"""Where things run: the supervisor and local processes. Standard library only."""
