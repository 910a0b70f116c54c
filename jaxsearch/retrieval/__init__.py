"""Retrieval beside the accelerator: what answers searches, and what is searched.

  pool, pooling/    searches run in worker processes; cache and journal of their answers
  backends/         what answers, a file each; reranking has the last word
  indexing/         from a corpus file to an index, which store, index_folder and faiss_index read
  http/, dialects/  our server, and the calls to the servers of others
  failures          why a search failed, in the words that metrics count

Nothing here imports JAX but what runs a model, in a process of its own: workers must start cheaply
and must never touch an accelerator.
"""
