"""Faces and media: decode, find, align, track, judge quality."""
