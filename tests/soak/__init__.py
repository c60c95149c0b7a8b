"""`make soak`: a fleet under random kills, judged from the outside only."""
