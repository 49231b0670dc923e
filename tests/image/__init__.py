"""Tests that boot a real Debian image."""
