"""Attention All Microbes."""
