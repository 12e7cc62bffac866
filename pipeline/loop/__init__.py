"""Rounds from better weights: refresh, gate, rollback, people's masks, and the loop over all of it."""
