"""One file per retrieval backend; `retrieval.backend` in the configuration is the file's name."""
