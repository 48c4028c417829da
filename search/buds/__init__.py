"""Buds: small networks grown from a parent, each for a part of its inputs; how they are found, trained and served."""
