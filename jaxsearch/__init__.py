"""jaxsearch: reinforcement learning of search-augmented reasoning in JAX."""
