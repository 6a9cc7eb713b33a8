"""Models applied to samples, with nothing learned: embeddings, outputs, attention, what a head reads."""
