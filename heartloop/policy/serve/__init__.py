"""An OpenAI-compatible endpoint for simulated users, policies and a scripted brain."""
