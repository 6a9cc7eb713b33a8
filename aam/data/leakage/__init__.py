"""What would flatter a model on a random split: columns of subjects and runs, near copies, and the sentences about them.

`guard` is what others import.
"""
