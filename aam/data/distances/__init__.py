"""Phylogenies and what is computed from them: UniFrac, Faith's PD, reads below branches, matrices of distances."""
