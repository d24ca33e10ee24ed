"""Carries decisions out. Decides nothing, keeps nothing that a later round needs: what failed is decided again."""
