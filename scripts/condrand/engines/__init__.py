"""Engines: each a story told in terms of the rooms around it."""
