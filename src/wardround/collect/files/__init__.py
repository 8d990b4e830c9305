"""Recordings in files, to readings: one file a format, pure readers of streams, no paths.

A reader checks a file whole (its length, its checksums, its form) before it gives the first reading: of a file that is damaged,
nothing is taken. What a file holds beside measurements (names, places, free text) is not read into anything.
"""
