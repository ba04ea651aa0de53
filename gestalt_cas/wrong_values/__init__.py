"""Rows that no write stores: how they are found, and how they are told."""
