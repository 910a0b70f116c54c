"""Protocols, one file each: the only place that knows tags and prompts."""
