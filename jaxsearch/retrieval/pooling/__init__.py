"""The inside of the pool: its thread, its processes, and what passes between them."""
