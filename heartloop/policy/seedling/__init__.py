"""The seedling: the built-in small policy, and everything that makes it."""
