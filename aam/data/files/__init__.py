"""Files of users: tables, sequences, metadata, artifacts, and files that are written whole.

Readers check what they read and raise `InputError` that names the file and the place; anything above may import them.
"""
