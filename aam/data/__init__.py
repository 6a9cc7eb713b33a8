"""Files in, dataclasses out: feature tables, sequences, metadata, phylogeny, distances, samples."""
