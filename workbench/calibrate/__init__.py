"""Estimates made from data before a reconstruction: data never estimate themselves."""
