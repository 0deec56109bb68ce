"""Gene networks: programs of embeddings, edges of attention and in-silico knock-out, validation."""
