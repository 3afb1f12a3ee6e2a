"""Arithmetic back ends, chosen by device and dtype."""
