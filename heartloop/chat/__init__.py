"""The terminal client: a person as the policy's partner. Nothing here yet."""
