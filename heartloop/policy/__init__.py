"""Policies: who answers the user, how they learn, and how they are measured."""
