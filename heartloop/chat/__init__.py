"""The terminal client: a person as the policy's partner, or as the one who helps."""
