"""How much memory training takes: the budget of a batch, the allocator, and a profile.

Nothing of it changes a result.
"""
