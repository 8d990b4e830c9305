"""Attacks on a study, tried before anybody else does: membership, reconstruction and poisoning, in each privacy mode."""
