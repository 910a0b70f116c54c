"""Retrieval over HTTP: our server, and the calls to the servers of others."""
