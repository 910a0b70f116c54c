"""Acting: the engine (device half) and the sampler (host half) of a rollout."""
