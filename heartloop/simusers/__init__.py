"""Simulated users: who suffers, and who scores."""
