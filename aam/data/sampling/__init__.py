"""Which samples, reads and ASVs are seen when: splits, rarefaction, steps of an epoch, batches.

Every draw is a function of the seed and of what it is for (`seeded`), never of what was drawn before.
"""
