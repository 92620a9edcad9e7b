"""How fast this project is, measured against other implementations of the same attacks."""
