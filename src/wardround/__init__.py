"""Wardround."""
