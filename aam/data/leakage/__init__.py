"""What would flatter a model on a random split: columns of subjects and runs, near copies, and what is said of them.

`guard` is what others import.
"""
