"""Training: rollouts, GRPO through TRL, and the run directory."""
