"""Rewards, one file each: numbers for the rollouts of one question."""
