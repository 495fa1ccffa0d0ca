"""What a caller meets over HTTP: the front, the paths and their handlers, and what is said about requests."""
