"""The terminal client: a human as the policy's partner. Empty for now; `heartloop play` shows dialogues."""
