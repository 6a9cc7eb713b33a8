"""One function for each command: config in, files out."""
