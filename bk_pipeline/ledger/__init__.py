"""The delivery ledger: which spans each destination has accepted, rejected or may have."""
