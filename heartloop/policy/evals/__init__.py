"""How good a policy is, whether it can be gamed, and what a training run did."""
