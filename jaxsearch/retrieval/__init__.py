"""Retrieval beside the accelerator: corpus store, backends, pool of processes, journal.

Nothing here imports JAX: workers must start cheaply and must never touch an accelerator.
"""
