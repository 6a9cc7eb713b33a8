"""Sections of a report: each a function that says what a run has to say of one thing, or nothing."""
